"""Write the variables of a Spleeter checkpoint to a file that needs no TensorFlow to be read.

python export_spleeter_weights.py MODEL_DIR OUT.npz

It runs in the Python that has Spleeter. MODEL_DIR is the folder of a checkpoint, such as pretrained_models/4stems.
Then: musdbkit baselines import OUT.npz --model spleeter-unet --out RUN
"""

import sys

import numpy as np
import tensorflow as tf

folder, out = sys.argv[1:]
checkpoint = tf.train.load_checkpoint(folder)
variables = {name: checkpoint.get_tensor(name) for name in sorted(checkpoint.get_variable_to_shape_map())}
numbers = {name: value for name, value in variables.items() if np.asarray(value).dtype.kind in "fiu"}  # no pickles
with open(out, "wb") as file:
    np.savez(file, **numbers)
print(f"{out}: {len(numbers)} variables")
