"""The words of each platform: how it says a kind, a mood and a colour, and what it says besides.

Rows are attribute values in order, each with its synonyms, the usual one first. A platform's own
choice of words is most of its style; the values behind them are the same everywhere.
"""

from collections.abc import Mapping

from pmm.world.platforms import Platform, Subject

Synonyms = tuple[str, ...]
ValueWords = tuple[Synonyms, ...]

_ENGLISH_KINDS: Mapping[Subject, ValueWords] = {
    "clothes": (("shirt", "blouse"), ("trousers", "chinos"), ("dress", "gown"), ("jacket", "coat")),
    "shoes": (
        ("sneakers", "trainers"),
        ("boots", "bootees"),
        ("sandals", "slides"),
        ("loafers", "pumps"),
    ),
    "accessories": (("bag", "tote"), ("hat", "cap"), ("scarf", "shawl"), ("belt", "sash")),
}
_AMERICAN_KINDS: Mapping[Subject, ValueWords] = {
    "clothes": (("shirt", "top"), ("pants", "slacks"), ("dress", "sundress"), ("jacket", "hoodie")),
    "shoes": (
        ("sneakers", "tennis shoes"),
        ("boots", "booties"),
        ("sandals", "flip flops"),
        ("loafers", "flats"),
    ),
    "accessories": (
        ("handbag", "purse"),
        ("hat", "beanie"),
        ("scarf", "wrap"),
        ("belt", "waistband"),
    ),
}
_CHINESE_KINDS: Mapping[Subject, ValueWords] = {
    "food": (("拉面", "面条"), ("蛋糕", "甜品"), ("烧烤", "烤串"), ("火锅", "浓汤")),
    "movie": (("喜剧", "搞笑片"), ("悬疑片", "惊悚"), ("爱情片", "恋爱"), ("纪录片", "纪实")),
    "cartoon": (("机甲", "机器人"), ("公主", "魔法少女"), ("萌宠", "小动物"), ("校园", "学院")),
    "music": (("钢琴", "琴曲"), ("吉他", "弹唱"), ("说唱", "嘻哈"), ("合唱", "歌剧")),
}
_MIXED_KINDS: Mapping[Subject, ValueWords] = {
    "food": (("拉面", "noodles"), ("蛋糕", "cake"), ("烧烤", "bbq"), ("火锅", "hotpot")),
    "movie": (
        ("喜剧", "comedy"),
        ("悬疑", "thriller"),
        ("爱情", "romance"),
        ("纪录片", "documentary"),
    ),
    "cartoon": (("机甲", "robot"), ("公主", "princess"), ("萌宠", "animals"), ("校园", "school")),
}

KINDS: Mapping[Platform, Mapping[Subject, ValueWords]] = {
    "Bili": _CHINESE_KINDS,
    "Kwai": _MIXED_KINDS,
    "HM": _ENGLISH_KINDS,
    "Amazon": _AMERICAN_KINDS,
}
MOODS: Mapping[Platform, ValueWords] = {
    "Bili": (("治愈", "温馨"), ("热血", "燃"), ("高雅", "精致"), ("怀旧", "复古")),
    "Kwai": (("治愈", "cozy"), ("热血", "lit"), ("精致", "fancy"), ("怀旧", "retro")),
    "HM": (("relaxed", "soft"), ("sporty", "active"), ("elegant", "dressy"), ("vintage", "retro")),
    "Amazon": (
        ("comfy", "cozy"),
        ("athletic", "workout"),
        ("formal", "classy"),
        ("classic", "old school"),
    ),
}
COLOURS: Mapping[Platform, ValueWords] = {
    "Bili": (
        ("红色", "火红"),
        ("黄色", "金黄"),
        ("绿色", "翠绿"),
        ("蓝色", "湛蓝"),
        ("紫色", "紫罗兰"),
        ("黑色", "暗黑"),
    ),
    "Kwai": (
        ("红色", "red"),
        ("黄色", "yellow"),
        ("绿色", "green"),
        ("蓝色", "blue"),
        ("紫色", "purple"),
        ("黑色", "black"),
    ),
    "HM": (
        ("red", "scarlet"),
        ("yellow", "mustard"),
        ("green", "olive"),
        ("blue", "navy"),
        ("purple", "lilac"),
        ("black", "anthracite"),
    ),
    "Amazon": (
        ("red", "burgundy"),
        ("yellow", "gold"),
        ("green", "army green"),
        ("blue", "royal blue"),
        ("purple", "plum"),
        ("black", "jet black"),
    ),
}
FILLERS: Mapping[Platform, Synonyms] = {
    "Bili": (
        "全程高能",
        "建议收藏",
        "一口气看完",
        "第三期",
        "自制合集",
        "睡前必看",
        "超清",
        "挑战一百天",
        "新人作品",
        "完整版",
    ),
    "Kwai": (
        "#日常",
        "#vlog",
        "老铁双击",
        "今天第一次",
        "#推荐",
        "关注我",
        "#foryou",
        "真的绝了",
        "#记录生活",
        "哈哈",
    ),
    "HM": (
        "with a straight hem",
        "in organic cotton",
        "with a lining, and side pockets",
        'with a "double" fastening',
        "in a regular fit",
        "with covered buttons",
        "in a sturdy weave",
        "made partly from recycled fibres",
    ),
    "Amazon": (
        "for Men Women",
        "Plus Size",
        "2 Pack",
        "New Arrival",
        "Great Gift",
        "Lightweight",
        "Machine Washable",
        "Free Returns",
        "Premium Quality",
        "Fast Shipping",
    ),
}
BRANDS: Mapping[Platform, Synonyms] = {
    "Bili": ("阿星", "老王", "小鹿", "大橘", "北北"),
    "Kwai": ("小美", "强哥", "阿飞", "Lucky", "丫丫"),
    "HM": ("Mila", "Oslo", "Tilda", "Nova", "Birch", "Harper", "Juno", "Sten"),
    "Amazon": ("ZORIVA", "PeakWell", "Lumeno", "TRYOK", "Northbay", "VANTELLO"),
}
