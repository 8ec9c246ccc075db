"""LeNet-5."""

from flash_pl.models import LeNet5


def test_parameters_at_both_classic_sizes() -> None:
    # 5x5x1x6 + 6, 5x5x6x16 + 16, 400x120 + 120, 120x84 + 84, 84x10 + 10
    for image_size in (28, 32):
        counted = sum(p.numel() for p in LeNet5(image_size=image_size).parameters())
        assert counted == 156 + 2_416 + 48_120 + 10_164 + 850
