"""What a text is, judged by its surface: boilerplate, a fragment, or words that no client wrote. Conservative rules.

Each rule was read against the real sources; what it takes away by mistake counts for more than what it misses. A text
that speaks of danger is never dropped for its form: crisis speeches are the short, broken and oddly worded ones.
"""

from __future__ import annotations

import re

BOILERPLATE, FRAGMENT, NOT_A_CLIENT = "boilerplate", "fragment", "not a client"
LINK = re.compile(r"(?:https?\s*:?\s*//|www\s?\.)\S+|(?<!\w)[@#]\w+", re.I)
LOREM = re.compile(r"\blorem ipsum\b", re.I)
FEWEST_WORDS = 5  # words that must be left when links and tags are taken away
SHORT = 12  # a text of fewer words that begins or ends in the middle of a sentence is a fragment
KEYWORDS = 0.08  # share of function words below which a text is a list of words (running English has 0.3 to 0.6)


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.I)


SITE = _any(
    r"\bi am a bot\b.{0,80}\bautomatically\b",
    r"\bcontact the moderators\b",
    r"\ball rights reserved\b",
    r"\bterms (?:of (?:service|use)|and conditions) apply\b",
    r"\bthis (?:post|thread|question|topic) (?:has been|was|is now) (?:removed|locked|closed|archived|deleted)\b",
    r"\bposted by (?:/?u/)\w+",
    r"^\W*(?:re)?posted by \w+ (?:on|at|in)\b",
    r"\blet this (?:thread|post) be a (?:space|place)\b",
    r"\b(?:daily|weekly|monthly) (?:check[- ]?in|support|discussion|vent(?:ing)?) (?:thread|post)\b",
    r"\bplease (?:enable|disable) (?:javascript|cookies|your ad ?blocker)\b",
)  # fmt: skip
SURVEY = _any(
    r"\bplease (?:rate|indicate|select|tick|circle) (?:each|the following|how (?:much|often)|one|your)\b",
    r"\bon a scale (?:of|from) \d+ (?:to|-) \d+\b.{0,120}\b(?:on a scale|rate|1\s*=)",
    r"\bstrongly disagree\b.{0,200}\bstrongly agree\b",
)  # fmt: skip
PROVIDER = _any(
    r"\b(?:i am|i'm|we are|we're) (?:currently |now )?(?:accepting|taking on|welcoming) new (?:clients|patients)\b",
    r"\b(?:i(?: am|'m| m) an?|we are) (?:licensed|certified|experienced) (?:therap|counsel|psycholog|coach)",
    r"\b(?:i|we) (?:offer|speciali[sz]e in|help (?:people|clients|individuals|couples))\b",
    r"\bour (?:team|clinic|practice|center|centre) (?:of|offers|provides|speciali[sz]es)\b",
    r"\b(?:my|our) (?:new )?(?:channel|podcast|blog|newsletter|e-?book|course|app|website)\b",
)  # fmt: skip
INVITATION = _any(
    r"\bbook (?:your|a free|a call|now|today|online)\b",
    r"\b(?:call|visit|contact|dm) us (?:at|on|today)\b",
    r"\bfree (?:consultation|discovery call|webinar|trial|e-?book)\b",
    r"\b(?:promo|discount|coupon) code\b|\b\d+ ?% off\b|\blimited (?:time )?offer\b",
    r"\b(?:subscribe to|check out|follow) (?:my|our)\b",
)  # fmt: skip
RECRUITMENT = (  # students who write here do research too: one sign alone says nothing
    _any(r"\b(?:participants?|volunteers?|respondents?|interviewees) (?:are )?(?:needed|wanted|required)\b"),
    _any(r"\b(?:looking for|recruiting|seeking|inviting) (?:\w+ ){0,3}(?:participants|respondents|volunteers)\b"),
    _any(r"\b(?:take|complete|fill (?:out|in)|answer) (?:my|our|this|a) (?:\w+ ){0,4}(?:survey|questionnaire)\b"),
    _any(r"\b(?:conducting|carrying out) (?:a|an|my|our|some) (?:\w+ ){0,4}(?:study|research|survey|experiment)\b"),
    _any(r"\b(?:take part|participat\w+) in (?:my|our|this|a|the) (?:\w+ ){0,3}(?:study|survey|research)\b"),
    _any(r"\b(?:ethics (?:committee|approval|board)|irb|informed consent|principal investigator)\b"),
    _any(r"\b(?:survey|study|questionnaire) (?:will )?takes? (?:\w+ ){0,2}min(?:ute)?s?\b"),
)  # fmt: skip
SIGNS = 2
TO_A_MODEL = _any(
    r"\bas an ai(?: language)? model\b",
    r"^\W*(?:you are|act as|imagine you are|pretend (?:to be|you are)) an? (?:\w+ ){0,3}"
    r"(?:assistant|chat ?bot|ai|language model|therapist|counsell?or|psychologist)\b",
    r"\bif you are an? (?:licensed )?(?:psychologist|therapist|counsell?or),? please\b",
    r"\bignore (?:all |any )?(?:the )?(?:previous|above|prior) instructions\b",
    r"^\W*#{2,} ?(?:instruction|input|response)\b",
    r"^\W*(?:please )?(?:write|generate|create|compose|summari[sz]e|translate|rewrite|paraphrase) (?:me )?"
    r"(?:a|an|the|this|some|\d+)\b(?! (?:list|plan|letter))",
)  # fmt: skip
REPLY = _any(
    r"^\W*(?:hi|hey|hello|dear)?,? ?(?:there|op|friend)?[,. !]*(?:i(?: am|'m| m) )?(?:so |very |really )*sorry "
    r"(?:you|that you|to (?:hear|read)|for your|about your)\b",
    r"^\W*(?:hi|hey|hello)? ?(?:there)?[,. !]*thank(?:s| you) (?:so much |very much )?for "
    r"(?:sharing|reaching out|your (?:post|question))\b",
    r"^\W*(?:hi|hey|hello|dear) op\b",
    r"^\W*(?:it sounds like|it seems(?: like)?) you\b",
    r"^\W*your feelings are (?:completely |totally )?valid\b",
)  # fmt: skip
FIRST = _any(r"\b(?:i|i['’]?(?:m|ve|d|ll)|im|ive|me|my|mine|myself|we|us|our|ours|ourselves)\b")
SECOND = _any(r"\b(?:you|your|yours|yourself|u|ur)\b")
OTHERS = _any(
    r"\b(?:he|him|his|she|her|hers|himself|herself|they|someone|somebody|anyone|anybody|everyone|nobody)\b",
    r"\b(?:mother|father|mom|mum|dad|parents?|sister|brother|sons?|daughters?|wife|husband|partner|spouse|boyfriend)\b",
    r"\b(?:girlfriend|fianc[eé]e?|friends?|famil(?:y|ies)|child(?:ren)?|kids?|baby|teen(?:ager)?s?|person|client)\b",
)  # fmt: skip
ASKS = _any(
    r"\?",
    r"\b(?:what|why|when|where|who|how)(?:['’]?s| (?:do|does|can|could|should|would|is|are|to|long|often|much))\b",
    r"\b(?:is|are) (?:it|this|that|there|these)\b",
    r"\b(?:do|doe|does|did|has|ha|can|could|should|would|will) (?:any|you|u|it|there|a|the|someone|people|guy)",
    r"\bany(?:one|body| one)? (?:else|advice|tips?|help|idea|suggestion|thought)",
    r"\b(?:need|want|looking for|seeking) (?:some )?(?:help|advice|support|someone)\b",
)  # fmt: skip
INSIDE = _any(
    r"\b(?:feel(?:s|ing|ings)?|felt|cry(?:ing)?|cried|afraid|scared|hopeless|worthless|lonel\w+|alone|numb|empty)\b",
    r"\b(?:anxi\w+|panic\w*|depressed|stress(?:ed|ful)?|trauma\w*|griev\w+|grief|asham\w+|guilt\w*|hurt\w*|pain\w*)\b",
    r"\b(?:therap\w+|counsel\w+|psych\w+|medicat\w+|diagnos\w+|nightmares?|insomnia|sleep|divorce\w*|addict\w+)\b",
)  # fmt: skip
DANGER = _any(
    r"\bsuicid\w*|\bkill\w*|\bdie\b|\bdying\b|\bdead\b|\bdeath\b|\boverdos\w*|\bhang(?:ing)?\b|\brope\b|\bgun\b",
    r"\bcut(?:ting)? (?:my|him|her|them|your)?sel\w+|\bself[- ]?harm\w*|\bend (?:it|my life|everything|the pain)\b",
    r"\babus\w+|\brap(?:e|ed|ing|ist)\b|\bmolest\w*|\bassault\w*|\bbeat(?:s|en|ing)?\b|\bthreat\w*|\bhit(?:s|ting)?\b",
    r"\bno (?:reason|point) (?:to|in) (?:live|living|go|going)\b|\bwant(?:s|ed)? to disappear\b|\b\d+ ?mg\b",
)  # fmt: skip
FUNCTION_WORDS = _any(
    r"\b(?:an?|the|i|me|my|we|our|you|your|he|him|his|she|her|its?|they|them|their|this|that|these|those|what|who)\b",
    r"\b(?:is|am|are|was|wa|were|be|been|being|do|doe|does|did|have|has|ha|had|will|would|can|could|should|may)\b",
    r"\b(?:might|must|not?|nor|and|or|but|if|because|so|than|then|when|while|as|of|at|by|for|with|about|into|to)\b",
    r"\b(?:from|in|out|on|off|over|up|down|which|how|why|where|there|here|just|very|too|all|any|some|more|most)\b",
    r"\b(?:much|many|im|ive|dont|cant|u)\b",
)  # fmt: skip
OPEN_START = _any(r"^\W*(?:and|or|but|because|which|of|than|nor|whose)\b")
OPEN_END = _any(r"\b(?:the|an?|and|or|but|because|of|to|with|my|your|his|her|their|our|is|are|was|were|which)\W*$")


def content_fault(text: str, english: bool = True) -> tuple[str, str]:
    """(reason, the rule's name) for a text that is no client's speech, ('', '') for one that may be. Linear in length.

    Most rules know English only; `english=False` leaves those out.
    """
    count = len(re.findall(r"[^\W\d_][\w'’]*", LINK.sub(" ", text)))
    if count < FEWEST_WORDS and LINK.search(text):
        return BOILERPLATE, "links and tags"
    if LOREM.search(text):
        return BOILERPLATE, "placeholder text"
    if not english:
        return "", ""
    if SITE.search(text):
        return BOILERPLATE, "site notice"
    if SURVEY.search(text):
        return BOILERPLATE, "survey form"
    if PROVIDER.search(text) and INVITATION.search(text):
        return NOT_A_CLIENT, "advertisement"
    if sum(sign.search(text) is not None for sign in RECRUITMENT) >= SIGNS:
        return NOT_A_CLIENT, "research recruitment"
    if DANGER.search(text):
        return "", ""
    if TO_A_MODEL.search(text):
        return NOT_A_CLIENT, "instruction to a model"
    if REPLY.search(text) and len(SECOND.findall(text)) > len(FIRST.findall(text)):
        return NOT_A_CLIENT, "reply to a poster"
    return _fragment(text, count) if count >= FEWEST_WORDS else ("", "")


def _fragment(text: str, count: int) -> tuple[str, str]:
    if count < SHORT and (OPEN_START.search(text) or OPEN_END.search(text)):
        return FRAGMENT, "part of a sentence"
    if len(FUNCTION_WORDS.findall(text)) < KEYWORDS * count:
        return FRAGMENT, "list of words"
    person = FIRST.search(text) or OTHERS.search(text) or (SECOND.search(text) and INSIDE.search(text))
    if not person and not ASKS.search(text):
        return FRAGMENT, "about nobody"
    return "", ""
