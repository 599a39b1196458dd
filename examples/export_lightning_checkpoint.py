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
said = checkpoint.get("hyper_parameters", {})
said = said if isinstance(said, dict) else vars(said)
settings = {name: value for name, value in said.items() if type(value) in plain}
arrays = {}
for name, tensor in checkpoint["state_dict"].items():
    arrays[name] = (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
with open(out, "wb") as file:
    np.savez(file, hyper_parameters=np.array(json.dumps(settings)), **arrays)
print(f"{out}: {len(arrays)} tensors")
