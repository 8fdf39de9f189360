from pyro_vae.svi import SVI
