"""Write the tensors of a checkpoint of Lightning to a file that is read without running what a pickle may hold.

python export_lightning_checkpoint.py CHECKPOINT.ckpt OUT.npz

It runs in the Python that trained it, which has the classes that the checkpoint names; only with a checkpoint that you
trust. It is for the original of block U-Nets: github.com/ws-choi/ISMIR2020_U_Nets_SVS.
Then: musdbkit baselines import OUT.npz --model block-unet --targets TARGET --out RUN
"""

import inspect
import json
import sys

import numpy as np
import torch

source, out = sys.argv[1:]
newer = "weights_only" in inspect.signature(torch.load).parameters
checkpoint = torch.load(source, map_location="cpu", **({"weights_only": False} if newer else {}))
plain = (str, int, float, bool, type(None))
settings = {name: value for name, value in dict(checkpoint.get("hyper_parameters", {})).items() if type(value) in plain}
arrays = {name: tensor.detach().numpy() for name, tensor in checkpoint["state_dict"].items()}
with open(out, "wb") as file:
    np.savez(file, hyper_parameters=np.array(json.dumps(settings)), **arrays)
print(f"{out}: {len(arrays)} tensors")
