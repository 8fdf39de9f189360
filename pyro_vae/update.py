r"""stub; the helper's comes"""

import copy
import inspect
from collections import defaultdict
from unittest import mock

import torch


class Update:
    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.written = [
            v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)
        ]
        self.read = [
            torch.tensor(float(g["lr"]), dtype=torch.float64) for g in optimizer.param_groups
        ]
        self.options = ()
        self._state = optimizer.state

    def stale(self):
        return self.optimizer.state is not self._state

    def refresh(self):
        for g, r in zip(self.optimizer.param_groups, self.read):
            r.fill_(g["lr"])
        self.optimizer._opt_called = True

    def __call__(self, swap, gradients):
        opt = self.optimizer
        for p, g in gradients.items():
            swap(p).grad = g
        shadow = copy.copy(opt)
        shadow.param_groups = [
            {
                **g,
                "params": [swap(p) for p in g["params"]],
                "lr": swap(r),
                **{k: True for k in ("foreach", "capturable") if k in g},
                "fused": None,
            }
            for g, r in zip(opt.param_groups, self.read)
        ]
        shadow.state = defaultdict(
            dict,
            {
                swap(p): {k: swap(v) if torch.is_tensor(v) else v for k, v in s.items()}
                for p, s in opt.state.items()
            },
        )
        with torch.no_grad(), mock.patch("torch.compiler.is_compiling", return_value=True):
            inspect.unwrap(type(opt).step)(shadow)
