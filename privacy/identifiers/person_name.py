"""Names of people: one case, one width, single spaces, no titles."""

from __future__ import annotations

import polars as pl

from privacy.identifiers.text import cleaned, keep

_BEFORE = r"^(?:(?:mrs|mr|ms|miss|mx|dr|prof|herr|frau|mme|sir|dame|rev)\.?\s+)+"
_AFTER = (
    r"(?:(?:\s*,\s*|\s+)(?:jr|sr|snr|jnr|ii|iii|iv|phd|ph\.d|md|m\.d|dds|esq|cpa|ret)\.?)+$"
    r"|(?:先生|女士|小姐|太太|老师|老師|博士|教授)$"
)
DOUBLE_SURNAMES = [
    "欧阳", "司马", "上官", "诸葛", "东方", "皇甫", "尉迟", "公孙", "慕容", "司徒", "令狐", "长孙",
    "宇文", "夏侯", "端木", "百里", "南宫", "独孤", "轩辕", "闻人", "澹台", "公冶", "宗政", "濮阳",
    "淳于", "单于", "太叔", "申屠", "仲孙", "钟离", "鲜于", "司空", "闾丘", "西门", "歐陽", "司馬",
    "諸葛", "東方", "尉遲", "公孫", "長孫", "獨孤", "軒轅", "聞人", "鍾離", "西門",
]  # fmt: skip
SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩邓冯曹彭曾肖萧田董潘袁蔡蒋余于杜叶程魏苏吕丁任卢"
    "姚沈钟姜崔谭陆范汪廖石金韦贾夏付傅方邹熊白孟秦邱侯江尹薛闫雷龙黎史陶贺毛郝顾龚邵万覃武钱戴严莫孔向常汤"
    "張劉陳楊黃趙吳孫馬鄭謝許韓鄧馮蕭葉蘇呂盧鐘譚陸範廖韋賈鄒錢嚴湯龍顧龔賀"
)
SURNAME = rf"(?:{'|'.join(DOUBLE_SURNAMES)}|[{SURNAMES}])"
"""A pattern: the Chinese surnames of most people."""


def normalise(values: pl.Series) -> pl.Series:
    """Lower case, titles and suffixes out; null where nothing that looks like a name remains."""
    text = cleaned(values).str.to_lowercase().str.replace_all(r"\s+", " ")
    text = text.str.replace(_BEFORE, "").str.replace(_AFTER, "").str.strip_chars(" ,.")
    chinese = text.str.contains(r"^[\p{Han} ·•.]+$").fill_null(value=False)
    text = text.zip_with(~chinese, text.str.replace_all("[ ·•.]", ""))
    return keep(text, text.str.contains(r"\p{L}"))
