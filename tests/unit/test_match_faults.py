"""Every mistake in a rule is told at once, each on the line where it stands: `#>` after a line says what of it."""

from __future__ import annotations

import pytest
from matching import parse

CASES = {
    "values and modifiers": r"""
title: T
logsource: {product: linux, category: process_creation}
detection:
  sel:
    Image|endswit: /a                       #> Unknown modifier 'endswit'
    CommandLine|contians:                   #> Unknown modifier 'contians'
      - x
  other:
    Image|re: '(['                          #> is invalid: unterminated character set
    CommandLine|re:
      - 'a'
      - '(b'                                #> is invalid: missing )
  condition: sel and othr                   #> detection 'othr' is not defined
""",
    "no condition": """
title: T
logsource: {product: linux, category: process_creation}
detection:                                  #> a rule needs a condition
  sel: {Image: /a}
""",
    "the rule's own keys": """
title: T
id: not-a-uuid                              #> Sigma rule identifier must be an UUID
logsource: {product: linux, category: process_creation}
detection:
  sel:
    Image: /a
    Image: /b                               #> duplicate key 'Image'
  empty:                                    #> `empty` is empty
  condition:
    - sel
    - sel and                               #> a detection's name is expected, found end of text
level: hgih                                 #> 'hgih' is not a valid Sigma rule level
status: foo                                 #> 'foo' is not a valid Sigma rule status
date: yesterday                             #> Rule date 'yesterday' is invalid
tags:
  - attack.t1059
  - nope                                    #> tag 'nope' must be a namespace, a dot and a name
response:
  action: kil                               #> response.action 'kil' is unknown; known: alert, isolate,
  scop: process                             #> unknown key 'scop' in response
""",
    "a response that would not be one": """
title: T
logsource: {product: linux, category: process_creation}
detection:
  sel: {Image: /a}
  condition: sel
reponse: {action: kill}                     #> unknown key 'reponse'; did you mean response?
""",
    "networks and numbers": """
title: T
logsource: {product: linux, category: network_connection}
detection:
  sel:
    DestinationIp|cidr:
      - 10.0.0.0/8
      - 10.0.0.1/8                          #> 10.0.0.1/8 has host bits set
      - 300.1.1.1/8                         #> does not appear to be an IPv4 or IPv6 network
    DestinationPort|gt: many                #> `DestinationPort|gt`: this modifier does not go with 'many'
  condition: sel
""",
    "what must be text": """
title: T
logsource:                                  #> category must be string
  category: {process_creation: yes}         #> `category` must be text
  product: [linux]                          #> `product` must be text
  service:
detection:
  a: {Image: /x}
  condition: a
---
title: C
correlation:
  type: event_count
  rules:
    - a
    - {b: c}                                #> the id or name of a rule must be text
  timespan: 1m
  condition: {gte: 1}
""",
    "several documents": """
title: first
logsource: {product: linux, category: process_creation}
detection:
  sel: {Image: /a}
  condition: (sel                           #> Unbalanced parentheses
---
title: second
logsource: {product: linux, category: process_creation}
detection:
  a: {Image: /x}
  condition: 1 of b*                        #> `1 of b*` refers to no detection
---
- a list                                    #> a rule is a map
---
detection:                                  #> must have a title #> must have a log source
  a: {Image: /x}
  condition: a
---
title: last
logsource: {product: linux, category: process_creation}
detection:
  a: {Image: /x}
  condition: a | count() > 5                #> The pipe syntax in Sigma conditions has been deprecated
""",
}


@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_each_fault_is_on_its_line(text: str) -> None:
    expected = [
        (number, says.strip()) for number, line in enumerate(text.splitlines(), 1) for says in line.split("#>")[1:]
    ]
    _, faults = parse(text)
    told = sorted((fault.line, fault.what) for fault in faults)
    assert [line for line, _ in told] == [line for line, _ in expected], told
    for line, says in expected:
        assert any(says in what for at, what in told if at == line), (line, says, told)


def test_a_sound_rule_has_none() -> None:
    rules, faults = parse(CASES["no condition"] + "  condition: sel\n")
    assert len(rules) == 1 and not faults


@pytest.mark.filterwarnings("error")
def test_a_doubtful_expression_is_no_warning_on_the_terminal() -> None:
    (rule,), faults = parse(
        CASES["no condition"].replace("Image: /a", "Image|re: 'x(?=[[a]&&b])'") + "  condition: sel\n"
    )
    assert not faults and "is beyond RE2" in rule.coverage.reasons[0]


def test_a_field_that_is_nearly_one_is_named() -> None:
    (rule,), _ = parse(CASES["no condition"].replace("Image", "Imgae") + "  condition: sel\n")
    assert rule.coverage.reasons == ("process_creation events have no field `Imgae`; did you mean Image?",)
