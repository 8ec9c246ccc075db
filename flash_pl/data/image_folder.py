"""ImageFolders: pictures in a folder for each class, read from their files while clients train."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from typing_extensions import Unpack

from flash_pl.checks import check_integers, check_numbers
from flash_pl.data.dataset_module import DatasetModule, LoadedBy
from flash_pl.data.formats import read_image
from flash_pl.data.partition import hold_out
from flash_pl.data.partitioned import PartitionKeywords
from flash_pl.errors import ConfigError, DataNotFoundError, as_yaml, in_one_line
from flash_pl.seeding import generator

SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}


class ImageFolders(DatasetModule):
    """Color images in a folder for each class, as torchvision's ``ImageFolder`` reads them.

    The root has the folders ``train`` and ``test`` (or ``val``), each with a folder for each class. A root that has the
    folders of the classes themselves is split: a share of its images are test images.

    Args:
        root: the folder.
        image_size: side S in pixels; images are resized so that their shorter side is S, and cropped to the center.
        test_share: share of the images for testing if the root has no folder of test images, in (0, 1).
        mean, std: of each channel, with pixels in [0, 1].
        workers: processes that read images while clients train.
        **keywords: see ``PartitionedData``.

    Raises:
        DataNotFoundError: the root has no images in folders of classes.
        ConfigError: training and test images have different classes; a number outside of its range.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for number in range(20):
    ...         folder = Path(root, "cat" if number % 2 else "dog")
    ...         folder.mkdir(exist_ok=True)
    ...         Image.new("RGB", (40, 30)).save(folder / f"{number}.png")
    ...     data = ImageFolders(root, image_size=16, clients=2)
    ...     data.setup("fit")
    ...     batch = next(iter(data.client_batches(0)))
    >>> batch[0].shape[1:]
    torch.Size([3, 16, 16])
    """

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: int = 64,
        test_share: float = 0.2,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
        workers: int = 2,
        **keywords: Unpack[PartitionKeywords],
    ) -> None:
        super().__init__(workers=workers, **keywords)
        check_integers(image_size=image_size)
        check_numbers("(0, 1)", test_share=test_share)
        self.root, self.image_size, self.test_share = Path(root), image_size, test_share
        self.transform = v2.Compose(
            [
                v2.Resize(image_size),
                v2.CenterCrop(image_size),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(mean), list(std)),
            ]
        )

    def sources(self) -> tuple[LoadedBy, LoadedBy | None]:
        """See ``DatasetModule``."""
        folders = {
            split: next((self.root / name for name in names if (self.root / name).is_dir()), None)
            for split, names in SPLITS.items()
        }
        if folders["train"] is None and folders["test"] is not None:
            problem = f"data.root: {self.root} has a folder {folders['test'].name}, and no folder train"
            raise DataNotFoundError(f"{problem}; give both, or the folders of the classes alone")
        if folders["train"] is None:
            return self._split(self._read(self.root))
        train = self._read(folders["train"])
        if folders["test"] is None:
            return self._split(train)
        test = self._read(folders["test"])
        if test.classes != train.classes:
            name = sorted(set(test.classes) ^ set(train.classes))[0]
            both = f"{folders['train']} and {folders['test']}"
            raise ConfigError("root", f"class {as_yaml(name)} is in only one of {both}", "give both the same classes")
        return LoadedBy(train), LoadedBy(test)

    def _read(self, folder: Path) -> Any:
        try:
            return ImageFolder(str(folder), self.transform, loader=read_image)
        except FileNotFoundError as error:
            reason = "there is no such folder" if not folder.is_dir() else in_one_line(error)
            hint = "give a folder with a folder for each class"
            raise DataNotFoundError(f"data.root: {folder}: {reason}; {hint}") from error

    def _split(self, images: Any) -> tuple[LoadedBy, LoadedBy]:
        """Every class keeps the same share of test images, up to rounding."""
        labels = torch.tensor(images.targets)
        classes = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
        train, test = hold_out(classes, self.test_share, generator(self.seed, "test_share"))
        parts = (torch.cat(part).sort().values.tolist() for part in (train, test))
        return tuple(LoadedBy(Subset(images, part)) for part in parts)  # type: ignore[return-value]
