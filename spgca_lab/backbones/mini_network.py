"""The architecture of `mini`: a thin bottleneck ResNet for 64 px pictures."""

from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

__all__ = ["mini_resnet"]

PLANES = (16, 32, 64, 128)


class _MiniResNet(ResNet):
    """torchvision's ResNet with a quarter of ResNet-50's width and a stem for small pictures."""

    def __init__(self, num_classes: int):
        super().__init__(Bottleneck, [2, 2, 2, 2], num_classes=num_classes)
        self.inplanes = 32
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.maxpool = nn.Identity()
        self.layer1 = self._make_layer(Bottleneck, PLANES[0], 2)
        self.layer2 = self._make_layer(Bottleneck, PLANES[1], 2, stride=2)
        self.layer3 = self._make_layer(Bottleneck, PLANES[2], 2, stride=2)
        self.layer4 = self._make_layer(Bottleneck, PLANES[3], 2, stride=2)
        self.fc = nn.Linear(PLANES[3] * Bottleneck.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def mini_resnet(num_classes: int) -> nn.Module:
    """A bottleneck ResNet of two blocks a stage, with torchvision's module names.

    At 64 px its taps `layer1.1.conv3` … `layer4.1.conv3` give maps of 64×32×32, 128×16×16, 256×8×8 and
    512×4×4.

    Args:
        num_classes: outputs of the head `fc`.

    Returns:
        the network, freshly initialised, in training mode; input float32 [b, 3, h, w].

    Raises:
        ValueError: if `num_classes` is not a positive whole number.

    Source:
        bottleneck blocks as in He et al., Deep Residual Learning, 2016 (torchvision's implementation).

    Example:
        >>> import torch
        >>> model = mini_resnet(10).eval()
        >>> model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes is {num_classes!r}: give a whole number of at least 1")
    return _MiniResNet(num_classes)
