"""The font of captions: one with Chinese glyphs where the system has it, else DejaVu."""

from functools import cache
from pathlib import Path

from PIL import ImageFont

WITH_CHINESE = (
    *("NotoSansCJK", "NotoSansSC", "SourceHanSans", "wqy-", "WenQuanYi", "DroidSansFallback"),
    *("PingFang", "Hiragino Sans GB", "STHeiti", "msyh", "simhei"),
)
"""Beginnings of the file names of common fonts that hold Chinese, Japanese and Latin glyphs."""


@cache
def caption_font(points: int) -> ImageFont.FreeTypeFont:
    """The caption font at a size. Glyphs it lacks show as boxes."""
    return ImageFont.truetype(_path(), points, layout_engine=ImageFont.Layout.BASIC)


@cache
def _path() -> str:
    """The first system font that can write Chinese; DejaVu comes with matplotlib."""
    from matplotlib import font_manager, get_data_path

    known = sorted(font_manager.findSystemFonts())
    for name in WITH_CHINESE:
        for path in known:
            if Path(path).name.casefold().startswith(name.casefold()):
                return path
    return str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
