"""Folders of images: one folder for each class."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from crowdlearn_host.errors import ConfigError

from .base import Arrays, Encode, Items, Loader, Notes, check_size, class_numbers, extra, listed, whole_order

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
GREY, COLOUR = ("1", "L"), ("RGB", "P", "RGBA", "LA", "PA", "CMYK", "YCbCr")
SPLITS = ("train", "validation", "test")
MOST_PIXELS = 1 << 26
"""Pixels of an image, as its header claims them."""


@dataclass(frozen=True)
class Picture:
    """One image: its `name` in messages, its encoded content or its file, and its class."""

    name: str
    content: Path | bytes
    label: str


@dataclass(frozen=True)
class ImageLoader(Loader[Items[Picture]]):
    """A folder for each class, with images of one size, or resized to one."""

    kind: ClassVar[str] = "images"
    about: ClassVar[str] = "A folder of images for each class; needs the extra images."

    size: Annotated[str, "Resize every image to HEIGHTxWIDTH; without it all must have one size."] = ""
    channels: Annotated[int, "1 for grey, 3 for colours; 0: as the training images are."] = 0

    def places(self, source: Path) -> dict[str, Path]:
        """Return `source`'s folders train, validation and test; without train, `source` as one place."""
        if not source.is_dir():
            raise ConfigError(f"{source} is no folder; name one with a folder of images for each class")
        found = {split: source / split for split in SPLITS if (source / split).is_dir()}
        return found if "train" in found else {"all": source}

    def read(self, place: Path, notes: Notes) -> Items[Picture]:
        """Return the images in every folder of `place`; the folder is the class."""
        pictures, others = [], []
        for folder in sorted(place.iterdir()):
            if folder.name.startswith("."):
                continue
            for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
                if not path.is_file() or path.name.startswith("."):
                    continue
                if folder.is_dir() and path.suffix.lower() in ENDINGS:
                    pictures.append(Picture(str(path), path, folder.name))
                else:
                    others.append(path.name)
        if not pictures:
            raise ConfigError(
                f"{place} holds no image in a folder of its class ({listed(sorted(ENDINGS))}); "
                "put each class into a folder of its own"
            )
        if others:
            notes.say(f"{place.name}: {len(others)} files are no images of a class: {listed(others)}")
        return Items(tuple(pictures))

    def encoder(self, train: Items[Picture], notes: Notes) -> Encode[Items[Picture]]:
        """Return what makes inputs uint8 [N, channels, height, width] of images."""
        notes.classes = tuple(whole_order(sorted({picture.label for picture in train.items})))
        if len(notes.classes) < 2:
            raise ConfigError(f"all images are of class {notes.classes[0]!r}; give two classes or more")
        decode = decoder(train.items, size_of(self.size), self.channels, notes)

        def encode(pictures: Items[Picture], split: str) -> Arrays:
            items = pictures.items
            labels = [picture.label for picture in items]
            numbers = class_numbers(labels, notes.classes, lambda at: f"{split} data, {items[at].name}")
            return Arrays(decode(items), numbers)

        return encode


def size_of(option: str) -> tuple[int, int] | None:
    """Return height and width in pixels; None if none is asked. Raises ConfigError for anything else."""
    if not option:
        return None
    height, _, width = option.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ConfigError(f"--size {option!r} must be HEIGHTxWIDTH, as in 32x32")
    return int(height), int(width)


def decoder(
    train: Sequence[Picture], size: tuple[int, int] | None, channels: int, notes: Notes
) -> Callable[[Sequence[Picture]], NDArray[np.uint8]]:
    """Return what decodes images to uint8 [N, channels, height, width], alike for every split.

    Without `size` all must have that of the first training image; channels of 0 are 1 if all training images
    are grey. Raises ConfigError that names an image that cannot be decoded.
    """
    if channels not in (0, 1, 3):
        raise ConfigError(f"--channels {channels} must be 1 (grey) or 3 (colours)")
    modes = Counter(_opened(picture, notes).mode for picture in train)
    depth = channels or (1 if all(mode in GREY for mode in modes) else 3)
    wanted = "L" if depth == 1 else "RGB"
    first = _decoded(train[0])
    height, width = size or (first.height, first.width)

    def decode(pictures: Sequence[Picture]) -> NDArray[np.uint8]:
        for picture in pictures if pictures is not train else ():
            _opened(picture, notes)  # headers are quick, and tell all that is too large or of another kind
        check_size(len(pictures), depth * height * width, 4, "the images")
        pixels = np.empty((len(pictures), height, width, depth), np.uint8)
        resized, converted = 0, Counter[str]()
        for at, picture in enumerate(pictures):
            image = _decoded(picture)
            if image.mode != wanted:
                converted[image.mode] += 1
                image = image.convert(wanted)
            if (image.height, image.width) != (height, width):
                if size is None:
                    raise ConfigError(
                        f"{picture.name} has {image.height}x{image.width} pixels, {train[0].name} has "
                        f"{height}x{width}; give --size HEIGHTxWIDTH to resize all"
                    )
                image, resized = image.resize((width, height)), resized + 1
            pixels[at] = np.asarray(image, np.uint8).reshape(height, width, depth)
        if converted:
            modes = listed([f"{count} of {mode}" for mode, count in converted.most_common()])
            notes.say(f"images become {'grey' if depth == 1 else 'RGB'}, without transparency: {modes}")
        if resized:
            notes.say(f"{resized} images are resized to {height}x{width}, whatever their proportions")
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    return decode


def _opened(picture: Picture, notes: Notes) -> Image:
    """Return an image whose header is read. Raises ConfigError if it is none."""
    pillow: Any = extra("PIL.Image", "pillow", "images")
    content = picture.content if isinstance(picture.content, Path) else BytesIO(picture.content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pillow.open(content) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ConfigError(f"{picture.name} has more than {MOST_PIXELS} pixels; make it smaller")
                if image.mode not in (*GREY, *COLOUR):
                    raise ConfigError(
                        f"{picture.name} has pixels of kind {image.mode}; save it with 8 bits a colour"
                    )
                if getattr(image, "n_frames", 1) > 1:
                    notes.say(f"{Path(picture.name).name} is animated: its first image counts")
                return image
    except ConfigError:
        raise
    except Exception as error:  # Pillow's formats each raise what they like
        raise ConfigError(f"{picture.name} cannot be read as an image ({error}); replace it") from error


def _decoded(picture: Picture) -> Image:
    """Return an image, upright. Raises ConfigError if it is damaged."""
    pillow: Any = extra("PIL.Image", "pillow", "images")
    upright: Any = extra("PIL.ImageOps", "pillow", "images").exif_transpose
    content = picture.content if isinstance(picture.content, Path) else BytesIO(picture.content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pillow.open(content) as image:
                return upright(image)
    except Exception as error:
        raise ConfigError(f"{picture.name} is damaged ({error}); replace it") from error
