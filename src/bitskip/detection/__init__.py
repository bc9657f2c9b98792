"""Detectors: what they cost, their shortcuts, data to train them on, and their backbones in the runtime.

A detector is torchvision's: Faster R-CNN, RetinaNet, FCOS or SSD. Its backbone, with the feature pyramid,
is bitskip's business; non-maximum suppression and RoIAlign stay torchvision's.
"""
