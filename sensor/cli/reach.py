"""For `check`: can the people whom the files name be reached, as far as can be told without telling them anything?"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from importlib.util import find_spec

from sensor.address import AddressError, read_address
from sensor.record.notify.courier import Courier
from sensor.record.notify.notifier import MISSING
from sensor.record.notify.sender import CHECK
from sensor.record.notify.text import Message
from sensor.startup import Loaded

_PATIENCE_S = 30.0


def unreachable(loaded: Loaded) -> Iterator[str]:
    """One sentence for each thing in the way. None of them holds any part of an address."""
    notify = loaded.config.notify
    if notify is None:
        return
    named = {f"agent {agent.agent}: owner.notify": agent.owner.notify for agent in loaded.agents}
    named |= {
        f"agent {agent.agent}: owner.escalate.notify": agent.owner.escalate.notify
        for agent in loaded.agents
        if agent.owner.escalate
    }
    named["notify.operators"] = notify.operators
    named["notify.escalate.notify"] = notify.escalate.notify if notify.escalate else []
    addresses = {f"{where}[{place}]": text for where, texts in named.items() for place, text in enumerate(texts)}
    if not addresses:
        return
    if not find_spec("apprise"):
        yield f"nobody is told of anything: {MISSING}"
        return
    urls: dict[str, str] = {}
    for where, address in addresses.items():
        if address.startswith("credential:"):  # known inside the service alone
            continue
        try:
            urls[where] = read_address(address)
        except AddressError as error:
            yield f"{where}: {error}"
    yield from (f"{where}: {why}" for where, why in _refused(urls).items())


def _refused(urls: dict[str, str]) -> dict[str, str]:
    """What apprise makes of them; nothing is sent."""
    answers: dict[int, str | None] = {}
    courier = Courier()
    try:
        for number, url in enumerate(urls.values()):
            courier.send(number, url, Message("", "", CHECK))
            _receive(courier, answers, 0)
        until = time.monotonic() + _PATIENCE_S
        while len(answers) < len(urls) and time.monotonic() < until and courier.fileno() is not None:
            _receive(courier, answers, 0.1)
    except OSError as error:
        return dict.fromkeys(urls, f"cannot be checked: {error.strerror or error}")
    finally:
        courier.close()
    found = {where: answers.get(number, "cannot be checked") for number, where in enumerate(urls)}
    return {where: why for where, why in found.items() if why}


def _receive(courier: Courier, answers: dict[int, str | None], wait_s: float) -> None:
    descriptor = courier.fileno()
    if descriptor is not None and select.select([descriptor], [], [], wait_s)[0]:
        answers |= courier.replies()[0]
