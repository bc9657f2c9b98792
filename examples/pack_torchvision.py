"""Pack a torchvision ResNet into one file that runs without torch, and classify pictures with it."""

import numpy as np

import bitskip
from bitskip.lower import lower
from bitskip.nn.torchvision_ops import ensure_torchvision_ops

ensure_torchvision_ops()  # does nothing where torchvision fits its torch
from torchvision.models import resnet18  # noqa: E402

model = resnet18(weights=None)  # weights="DEFAULT" for the trained network
mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
lower(model, mean, std, input_shape=(3, 64, 64), name="resnet18").save("resnet18.bitskip")

packed = bitskip.load("resnet18.bitskip")
pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
print(f"{packed.engine} engine:", packed.predict(pictures).argmax(1))
