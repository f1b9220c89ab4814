"""Postal addresses in running text: a road or an estate with a number in China, a house number with a street
or with a state and a ZIP code in America. Streets without a number are not personal.
"""

from __future__ import annotations

from privacy.masking.pattern import END, Pattern

_PLACE = r"[\p{Han}--[寄到在往送去址是为从的请了省市区县镇乡路街巷弄号]]"
_REGION = (
    rf"(?:{_PLACE}{{2,8}}(?:省|自治区|特别行政区))?(?:{_PLACE}{{1,8}}(?:市|自治州|地区|盟))?"
    rf"(?:{_PLACE}{{1,8}}(?:市|区|县|旗))?(?:{_PLACE}{{1,8}}(?:镇|乡|街道))?"
)
_HOUSE = "(?:[0-9]{1,5}|[零一二三四五六七八九十百千]{1,6}|[A-Za-z])"
_UNITS = (
    rf"(?:[ ,，-]?(?:{_PLACE}{{1,10}}(?:小区|花园|公寓|大厦|家园|广场|中心|苑|庄))?"
    rf"[0-9A-Za-z零一二三四五六七八九十]{{1,6}}(?:号楼|号院|栋|幢|座|单元|楼|层|室|房|户|号))*"
)
_ROAD = (
    rf"{_PLACE}{{1,10}}(?:路|街|大道|道|巷|弄|胡同|里)(?:[东南西北中]段?)?{_HOUSE}(?:号|弄|巷|座)"
)
_ESTATE = (
    rf"{_PLACE}{{2,10}}(?:小区|花园|公寓|大厦|家园|新村|苑|庄|村){_HOUSE}(?:号楼|栋|幢|座|号|组)"
)
_POSTCODE = f"(?: ?[0-9]{{6}}{END})?"
_STREETS = (
    "Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Circle|Cir|Terrace|Ter|Trail|Trl"
    "|Highway|Hwy|Freeway|Fwy|Expressway|Expy|Turnpike|Tpke|Parkway|Pkwy|Plaza|Place|Pl|Square|Sq|Crescent|Way"
)
"""Names of streets, from USPS Publication 28, appendix C1, that are not mostly other words."""
_STATE = (
    "(?:A[KLRZ]|C[AOT]|D[CE]|FL|G[AU]|HI|I[ADLN]|K[SY]|LA|M[ADEHINOPST]|N[CDEHJMVY]|O[HKR]|P[ARW]|RI|S[CD]"
    "|T[NX]|UT|V[AIT]|W[AIVY]|AS|FM)"
)
_CITY = (
    rf"\p{{Lu}}[\p{{L}}.'’-]+(?: \p{{Lu}}[\p{{L}}.'’-]+){{0,2}},? {_STATE} {{1,2}}[0-9]{{5}}"
    "(?:-[0-9]{4})?"
)
_UNIT = (
    r"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Flat|#)\.? ?[0-9A-Za-z-]{1,6})?"
    r"(?:,? (?:[0-9]{1,3}(?:st|nd|rd|th)|\p{Lu}\p{Ll}+) Floor)?"
)
_HOUSE_OF_STREET = (
    r"[0-9]{1,6}[A-Za-z]?,? (?:(?:[NSEW]|NE|NW|SE|SW|North|South|East|West)\.? )?"
    r"(?:(?:\p{Lu}[\p{L}'’.-]+|[0-9]{1,3}(?:st|nd|rd|th))[ ,\n]){1,4}"
)
_STREET = rf"{_HOUSE_OF_STREET}(?:{_STREETS})\b\.?{_UNIT}(?:[ ,\n]{{1,2}}{_CITY})?"
_TO_THE_ZIP = (
    rf"[0-9]{{1,6}}[A-Za-z]?(?: [\p{{Lu}}0-9][\p{{L}}'’.-]*){{1,5}}{_UNIT}[ ,\n]{{1,2}}{_CITY}"
)
_MILITARY = (
    r"(?:(?:PSC|CMR|Unit|USS|USNS|USNV|USCGC) [0-9A-Z]\p{L}*[0-9]*(?:,? Box [0-9]+)?[ ,\n]{1,2})?"
    "[AFD]PO,? A[AEP] [0-9]{5}"
)

ADDRESSES: tuple[Pattern, ...] = (
    Pattern("address", f"{_REGION}(?:{_ROAD}|{_ESTATE}){_UNITS}{_POSTCODE}", "号|弄|巷|座|栋|幢|组",
            anywhere=True),
    Pattern("address", _TO_THE_ZIP, rf" {_STATE} {{1,2}}[0-9]{{5}}"),
    Pattern("address", _STREET, f" (?:{_STREETS})"),
    Pattern("address", _MILITARY, "[AFD]PO"),
    Pattern("address", r"P\.? ?O\.? ?(?:Box|BOX) [0-9]{1,6}", "Box|BOX"),
)  # fmt: skip
"""In the order in which they are looked for."""
