def explain(function, *args, **kwargs):
    return None
