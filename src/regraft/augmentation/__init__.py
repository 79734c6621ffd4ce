"""Random views of training images, and the one way by which images are evaluated and served.

views.py       a file's bytes → the square that is trained on (or evaluated: `regraft.images.preprocess`)
operations.py  the colour and geometry operations of `medium`, by torchvision (loads torch)
mixing.py      mixup and cutmix on a batch, by timm (loads torch)
fixed_views.py test-time augmentation: which views of an image are averaged
sheet.py       a picture of what an augmentation does
"""

from regraft.augmentation.sheet import preview
from regraft.augmentation.views import LEVELS, Augmentation, Level, eval_view, train_view

__all__ = ["LEVELS", "Augmentation", "Level", "eval_view", "preview", "train_view"]
