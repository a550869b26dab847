"""Freeze and ask: what a rule or an agent's file wants a person to decide, from the question to what became of it.

It stands between the pipeline and the executor. A frozen workload never goes on by itself: each step is written before
it is taken, what a crash cut off is taken up at the next start, and what cannot be told leaves the workload frozen.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import structlog
from msgspec.structs import replace

from sensor.agents_file import AgentFile
from sensor.duration import LONGEST_S, in_words, seconds
from sensor.events import AnyEvent, from_record, to_record
from sensor.respond.casebook import Casebook
from sensor.respond.cases import CASES_LIMIT, GRANTS_LIMIT, Case, CgroupRef, Decision, Grant, new_id, now
from sensor.respond.cgroupfs import CgroupRoot
from sensor.respond.executor import Executor, Pending
from sensor.respond.plan import Plan, Planner, Target
from sensor.respond.recent import Recent
from sensor.verdict import Mode, Outcome, Verdict

log = structlog.get_logger()

CLOSED_LIMIT = 256
"""How many cases are remembered after their end, for whoever asks what became of one."""
LOOSENED_LIMIT = 3
"""How often a workload that others thawed is frozen again; after that it is denied."""


class Asks(NamedTuple):
    """What an agent's file says of approvals."""

    kinds: frozenset[str]
    within_s: int


class Words(NamedTuple):
    """How to say things; the stage that records knows."""

    reason: Callable[[Verdict], str]
    sentence: Callable[[AnyEvent], str]


class Closed(NamedTuple):
    """What became of a case."""

    case: Case
    outcome: Outcome


class _UnderWay(NamedTuple):
    verdict: Verdict
    case: Case
    decision: Decision | None
    """What is being carried out; None: the freeze."""


class ApprovalError(Exception):
    """A decision cannot be taken; the message is one sentence."""


class Approvals:
    """Takes the executor's place in the pipeline; all that needs no question goes straight through to it."""

    def __init__(self, executor: Executor, planner: Planner, root: CgroupRoot, book: Casebook, words: Words) -> None:
        self.recent = Recent()
        self.within_s = 900
        """How long to wait for an answer where no agent's file says."""
        self._executor = executor
        self._planner = planner
        self._root = root
        self._book = book
        self._words = words
        self._asks: dict[str, Asks] = {}
        self.decided: Callable[[Case, int | None], object] = lambda _case, _for_s: None
        """Told of each decision before it is carried out, and for how many seconds it holds."""
        self._closed: OrderedDict[str, Closed] = OrderedDict()
        self._under_way: list[_UnderWay] = []
        self._done: list[tuple[Verdict, Outcome]] = []

    def use(self, files: Iterable[AgentFile], within: str) -> None:
        """What the agents' files say, and `approve_within` of the configuration. Replaces what was said before."""
        self.within_s = seconds(within)
        self._asks = {
            file.agent: Asks(frozenset(file.approve), seconds(file.approve_within or within)) for file in files
        }

    def plan_with(self, planner: Planner) -> None:
        """What is protected may be other cgroups now."""
        self._planner = planner

    @property
    def mode(self) -> Mode:
        return self._executor.mode

    def begin(self, verdict: Verdict) -> Outcome | Pending:
        """See `Executor.begin`. A workload that was frozen and waits for an answer has the outcome `pending`."""
        asked = self._question(verdict)
        if asked is None:
            return self._executor.begin(verdict)
        begun = self._ask(asked)
        if isinstance(begun, Outcome):  # told as what it became
            self._done.append((asked, begun))
            begun = Pending(asked, begun)
        return begun

    def _ask(self, asked: Verdict) -> Outcome | Pending:
        if self.mode == "monitor":
            return self._executor.begin(asked)
        grant = self._book.grant_of(asked.rule.id, _whom(asked))
        if grant is not None:
            return self._granted(asked, grant)
        plan = self._planner.plan(asked)
        cgroups = [] if plan.refused else self._present(plan)
        case = self._case(asked, cgroups) if cgroups else None
        begun = self._executor.begin(asked)
        if case is None:
            return begun
        if isinstance(begun, Pending):
            self._under_way.append(_UnderWay(asked, case, None))
            return begun
        return self._frozen(case, begun)

    def completed(self) -> list[tuple[Verdict, Outcome]]:
        """See `Executor.completed`; what became of decisions is among it."""
        found = [(verdict, self._settle(verdict, outcome)) for verdict, outcome in self._executor.completed()]
        done, self._done = self._done, []
        return done + found

    def close(self) -> list[tuple[Verdict, Outcome]]:
        """See `Executor.close`. What was decided and is not done yet, the next start takes up."""
        done, self._done = self._done, []
        return done + self._executor.close()

    def fileno(self) -> int:
        return self._executor.fileno()

    def timeout(self) -> float | None:
        return 0.0 if self._done else self._executor.timeout()

    def closed(self, case_id: str) -> Closed | None:
        """What became of a case; None while that is not known, or no longer."""
        return self._closed.get(case_id)

    def case(self, case_id: str) -> Case:
        """The case of this name that waits for an answer; raises ApprovalError where there is none."""
        case = self._book.cases.get(case_id)
        if case is not None and case.decision is None:
            return case
        closed = self._closed.get(case_id)
        if case is not None:
            raise ApprovalError(f"case {case_id} was {_decided(case)}")
        if closed is not None:
            raise ApprovalError(f"case {case_id} is closed: {closed.outcome.reason}")
        names = ", ".join(waiting.id for waiting in self._book.pending) or "none"
        raise ApprovalError(f"no case {case_id!r} waits for an answer; waiting: {names}")

    def approve(self, case_id: str, by: str, for_s: int | None) -> None:
        """Let the workload go on; with `for_s`, further matches of the rule by the agent too, for so long.

        Raises ApprovalError; the workload then stays frozen.
        """
        case = self.case(case_id)
        book, before = self._book, self._book.grants
        book.forget_old_grants()
        if for_s is not None:
            if not 1 <= for_s <= LONGEST_S:
                raise ApprovalError("an approval holds for at least one second and at most 30 days")
            if len(book.grants) >= GRANTS_LIMIT:
                raise ApprovalError(f"{GRANTS_LIMIT} approvals hold already; approve this one once")
            book.grants = book.grants | {(case.rule.id, case.whom): _grant(case, by, for_s)}
        case.decision, case.by = "approve", by
        if not book.save():
            case.decision, case.by, book.grants = None, None, before
            raise ApprovalError(f"the decision cannot be written to {book.path}, so the workload stays frozen")
        self.decided(case, for_s)
        self._carry_out(case)

    def deny(self, case_id: str, by: str) -> None:
        """Kill the workload; raises ApprovalError where there is no such case."""
        self._deny(self.case(case_id), by)

    def resume(self) -> None:
        """Take up what the last run left: to be called once, when everything is ready."""
        for case in list(self._book.cases.values()):
            if case.decision is not None:
                self._carry_out(case)
            elif not case.held and self.mode == "enforce":
                self._begin(case, _freeze(case, None))

    def tick(self) -> None:
        """Close what there is nothing more to ask about, deny what waited too long. Every few seconds."""
        for case in self._book.pending:
            state = self._state(case)
            if state == "gone":
                self._end(case, "nothing of it is left")
            elif self.mode == "monitor":
                continue
            elif state == "loose":
                self._freeze_again(case)
            elif now() >= case.deadline:
                self._deny(case, f"nobody, there was no answer within {in_words(case.within_s)}")
        if self._book.forget_old_grants() or not self._book.is_written:
            self._book.save()

    def _question(self, verdict: Verdict) -> Verdict | None:
        """The verdict as a question to the owner; None where none is to be asked.

        What the kernel denied needs no approval, and none would help.
        """
        rule, asks = verdict.rule, self._asks.get(verdict.event.agent or "")
        denied = getattr(verdict.event, "denied", None)
        if asks is not None and not denied and not asks.kinds.isdisjoint(rule.kinds):
            scope = "cgroup" if rule.scope == "process" else rule.scope
            return replace(verdict, rule=replace(rule, action="freeze", scope=scope))
        return verdict if rule.action == "freeze" else None

    def _granted(self, asked: Verdict, grant: Grant) -> Outcome | Pending:
        left = in_words((grant.until - now()) / 1e9)
        reason = f"approved by {grant.by} as case {grant.case}, for another {left}"
        begun = self._executor.begin(replace(asked, rule=replace(asked.rule, action="alert")))
        return begun if isinstance(begun, Pending) else replace(begun, reason=reason)

    def _present(self, plan: Plan) -> list[CgroupRef]:
        """The cgroups of a plan that are there, each by its id."""
        found = []
        for target in plan.cgroups:
            try:
                cgroup = self._root.open(target.path, target.id)
            except OSError:  # the executor meets it too, and says so
                continue
            if cgroup is not None:
                found.append(CgroupRef(cgroup.path, cgroup.id))
                cgroup.close()
        return found

    def _case(self, asked: Verdict, cgroups: list[CgroupRef]) -> Case | None:
        """The case that asks this already, or a new one; None where there are too many: it is frozen nevertheless."""
        whom = _whom(asked)
        for case in self._book.pending:
            if case.rule.id == asked.rule.id and case.whom == whom and case.cgroups == cgroups:
                case.repeats += 1
                return case
        if len(self._book.cases) >= CASES_LIMIT:
            self._book.losses["cases_over_limit"] += 1
            return None
        return self._open(asked, cgroups)

    def _open(self, asked: Verdict, cgroups: list[CgroupRef]) -> Case:
        event = asked.event
        asks = self._asks.get(event.agent or "")
        within_s = asks.within_s if asks else self.within_s
        case = Case(
            id=new_id(self._book.cases.keys() | self._closed.keys()),
            rule=asked.rule,
            agent=event.agent,
            owner=event.agent_owner,
            cgroups=cgroups,
            event=to_record(event),
            wanted=self._words.reason(asked),
            recent=[self._words.sentence(before) for before in self.recent.below(cgroups[0].path)],
            asked=time.time_ns(),
            deadline=now() + within_s * 1_000_000_000,
            within_s=within_s,
        )
        self._book.cases[case.id] = case
        self._book.save()
        return case

    def _frozen(self, case: Case, outcome: Outcome) -> Outcome:
        """What the alert says once the workload is frozen, or is not."""
        if outcome.outcome != "done":
            return replace(outcome, reason=f"{outcome.reason}; asked as case {case.id} nevertheless")
        if not case.held:
            case.held = True
            self._book.save()
        end = time.gmtime(time.time() + (case.deadline - now()) / 1e9)
        waits = f"denied without an answer by {time.strftime('%H:%M:%S', end)} UTC"
        asks = f"case {case.id}: hostbrake approve {case.id}, or deny {case.id}; {waits}"
        return replace(outcome, outcome="pending", reason="; ".join(filter(None, (outcome.reason, asks))))

    def _deny(self, case: Case, by: str) -> None:
        case.decision, case.by = "deny", by
        self._book.save()  # that it cannot be written keeps nobody from denying
        self.decided(case, None)
        self._carry_out(case)

    def _carry_out(self, case: Case) -> None:
        reason = _decided(case)
        if case.decision == "deny":
            self._begin(
                case,
                Plan(action="kill", scope="cgroup", cgroups=_targets(case.cgroups), reason=reason, decided=True),
            )
            return
        held = {ref for other in self._book.pending for ref in other.cgroups}
        free = [ref for ref in case.cgroups if ref not in held]
        if any(
            ref.path == other.path or ref.path.startswith(other.path + "/") for ref in case.cgroups for other in held
        ):
            reason += "; frozen until every case of it is answered"
        if free:
            self._begin(
                case,
                Plan(action="freeze", scope="cgroup", cgroups=_targets(free), reason=reason, decided=True, thaw=True),
            )
        else:
            self._end(case, reason)

    def _begin(self, case: Case, plan: Plan) -> None:
        verdict = _verdict(case)
        begun = self._executor.carry_out(verdict, plan)
        self._under_way.append(_UnderWay(verdict, case, case.decision))
        if not isinstance(begun, Pending):
            self._done.append((verdict, self._settle(verdict, begun)))

    def _settle(self, verdict: Verdict, outcome: Outcome) -> Outcome:
        """The outcome of an act, and what it means for the case that it was for."""
        for place, (ours, case, decision) in enumerate(self._under_way):
            if ours is verdict:
                del self._under_way[place]
                if decision is not None:
                    self._close(case, outcome)
                elif case.decision is None:
                    return self._frozen(case, outcome)
                break
        return outcome

    def _state(self, case: Case) -> Literal["waits", "gone", "loose"]:
        """Whether there is something left to ask about, and whether it is still told to freeze."""
        states = []
        for ref in case.cgroups:
            try:
                cgroup = self._root.open(ref.path, ref.id)
            except OSError:
                return "waits"  # it cannot be told
            if cgroup is not None:
                states.append((cgroup.is_held(), cgroup.is_populated()))
                cgroup.close()
        if not states:
            return "gone"
        if not case.held or all(held for held, _ in states):
            return "waits"
        return "loose" if any(populated and not held for held, populated in states) else "gone"

    def _freeze_again(self, case: Case) -> None:
        """Its user may own the cgroup and have a helper outside it: to thaw takes an operator."""
        case.loosened += 1
        reason = f"case {case.id} was thawed, and not by an answer"
        log.warning(reason, cgroup=case.cgroups[0].path, times=case.loosened)
        if case.loosened > LOOSENED_LIMIT:
            self._deny(case, f"nobody, it was thawed {case.loosened} times and not by an answer")
        else:
            self._begin(case, _freeze(case, reason))

    def _end(self, case: Case, why: str) -> None:
        """With nothing done to the workload."""
        outcome = Outcome(
            mode=self.mode,
            action="freeze",
            outcome="none",
            reason=why,
            scope="cgroup",
            cgroup=case.cgroups[0].path,
        )
        self._done.append((_verdict(case), outcome))
        self._close(case, outcome)

    def _close(self, case: Case, outcome: Outcome) -> None:
        self._book.cases.pop(case.id, None)
        self._book.save()
        self._closed[case.id] = Closed(case, outcome)
        if len(self._closed) > CLOSED_LIMIT:
            self._closed.popitem(last=False)


def _verdict(case: Case) -> Verdict:
    """The case's verdict as of now: what is done now is no answer to the event of then."""
    event = from_record(case.event)
    event.time, event.boottime = time.time_ns(), now()
    return Verdict(rule=case.rule, event=event, detail=f"case {case.id}")


def _freeze(case: Case, reason: str | None) -> Plan:
    return Plan(action="freeze", scope="cgroup", cgroups=_targets(case.cgroups), reason=reason, decided=True)


def _grant(case: Case, by: str, for_s: int) -> Grant:
    until = now() + for_s * 1_000_000_000
    return Grant(rule=case.rule.id, title=case.rule.title, whom=case.whom, until=until, by=by, case=case.id)


def _whom(verdict: Verdict) -> str:
    return verdict.event.agent or verdict.event.cgroup_path or ""


def _decided(case: Case) -> str:
    return f"{'denied' if case.decision == 'deny' else 'approved'} by {case.by}"


def _targets(refs: Iterable[CgroupRef]) -> tuple[Target, ...]:
    return tuple(Target(ref.path, ref.id) for ref in refs)
