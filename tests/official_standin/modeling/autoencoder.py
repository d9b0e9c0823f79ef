"""The VAE and how it is loaded."""

from types import SimpleNamespace

from safetensors.torch import load_file

from bagel_export.reference.vae import AutoEncoder


def load_ae(local_path: str):
    tensors = load_file(local_path)
    coder = AutoEncoder(tensors["encoder.conv_in.weight"].shape[0])
    coder.load_state_dict(tensors)
    return coder, SimpleNamespace(downsample=8, z_channels=16)
