"""Names in running text, where the words beside them give them away.

``联系人：张三``, ``王先生``, ``my name is Anna Smith``, ``Dr. Meyer``. A name that nothing announces is not
found. Where a pattern must choose it hides a character too many: behind a surname two are hidden, unless the
second is one that names do not have.
"""

from __future__ import annotations

from privacy.identifiers.person_name import DOUBLE_SURNAMES, SURNAME, SURNAMES
from privacy.masking.pattern import END, START, Pattern

_RARER = (
    "丛丰乌乐乔云亓井亢仇仰仲伊伍佘佟倪储元党全兰关冀冉农况冷冼凌凤刁初利劳勾包匡华卓单南卜卞卫印危卿厉古"
    "司吉商喻国奉奚姬娄季宁安宓宗官宣宫容宾宿寇富封尉尚尤尧居屈展屠山岑岳嵇左巩巫巴帅师席干平幸庄应庞康强"
    "恽惠慕戈戎成战戚房扈揭支敖敬文施时明易昝晁晋晏普景智曲朴权束杭松柏查柯柳柴栗栾桂桑梅植楚楼樊檀欧段殷"
    "母毕水池沙洪浦海涂温游湛滕满漆濮焦燕牛牟狄玉班甄甘申皮盖盘盛相瞿祁祖祝禹穆窦章童竺符简管米粟索纪练缪"
    "羊翁翟耿聂胥臧舒艾芦芮花苑苗苟茅茹荀荆荣莊葛蒙蒲蓝蔺薄虞虢衡裘裴褚解訾詹计诸谈谌谷费赖路车辛辜边连迟"
    "逯邝邢邬邰邸郁郎郜鄢银關门闭闵闻阎阙阚阮阳阴阿隆隋雍霍靳鞠顏项颜饶骆鲁鲍鲜鹿麦麻齐"
)
"""More surnames, too often words to be taken for names without a heading."""
_ANY_SURNAME = rf"(?:{'|'.join(DOUBLE_SURNAMES)}|[{SURNAMES}{_RARER}])"
_NEVER = "的了已要来在说及并请想给把被打称过不没从对后前也就都又再向让寄收发退电号先级课务案端融"
"""Characters that given names do not have: of the words that follow a name most often."""
_GIVEN = rf"[\p{{Han}}--[{_NEVER}]]"
_HEADING = (
    "(?:姓名|名字|联系人|收件人|收货人|寄件人|发件人|持卡人|户名|申请人|投保人|被保险人|受益人|经办人|客户名称?|车主|患者"
    "|监护人|负责人|法人|签收人|预订人|入住人|乘客|旅客)"
)
_THANKS = "(?:感谢|谢谢|多谢|致谢|由于|关于|对于|属于|位于|给|向|和|与|跟)?"
"""Words that end, or are, like a surname: they stay."""
_CALLED = (
    "(?:先生|女士|小姐|太太|夫人|经理|老师|医生|大夫|师傅|阿姨|叔叔|大爷|大妈|同学|律师|主任|总监|教授"
    "|护士|警官|校长)"
)
_WORD = r"\p{Lu}(?:[\p{Ll}'’-]+|\.)(?:\p{Lu}\p{Ll}*)?"
"""A word of a Latin name: Smith, O'Neill, McDonald, J."""
_DEGREES = r"(?:,? (?:Jr|Sr|II|III|IV|MD|DDS|DVM|PhD|Esq)\b\.?)?"
_LATIN = rf"{_WORD}(?: {_WORD}){{0,3}}{_DEGREES}"

_TITLE = r"(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof)\.? "
_MINE = (
    "(?i:my name is"
    "|(?:full|first|last|family|given|customer|contact|client|patient|cardholder) name[:：]) ?"
)
_FORM = (
    "(?i:contact|customer|recipient|cardholder|account holder|attn|beneficiary|passenger|patient|signed"
    "|ship to|bill to)[:：] ?"
)

_ANNOUNCED = f"{_ANY_SURNAME}{_GIVEN}{{1,2}}"
_SEX = "先生|女士|小姐"

NAMES: tuple[Pattern, ...] = (
    Pattern("name", _ANNOUNCED, _HEADING, before=_HEADING + "(?:是|为|叫)?[ :：]{0,3}"),
    Pattern("name", _ANNOUNCED, "叫", before="(?:我|名|他|她|本人)叫(?:做)?"),
    Pattern("name", f"{SURNAME}{_GIVEN}{{0,2}}", _CALLED, before=_THANKS, after=_CALLED),
    Pattern("name", _ANNOUNCED, _SEX, before=_THANKS, after=_SEX),
    Pattern("name", _LATIN, _TITLE, before=START + _TITLE),
    Pattern("name", _LATIN, "(?i)name(?: is|[:：])", before=rf"{START}{_MINE}|(?:^|[.;,\n] ?)[Nn]ame[:：] ?"),
    Pattern("name", f"{_WORD}(?: {_WORD}){{1,3}}{_DEGREES}", "[:：]", before=START + _FORM, after=END),
)  # fmt: skip
"""In the order in which they are looked for."""
