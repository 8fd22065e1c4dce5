"""`alphabar course`: the curriculum record and its audit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphabar.course.audit import Finding

EPILOG = """\
examples:
  alphabar course audit                    every rule on every lesson; what is wrong, where, and what mends it
  alphabar course audit --json
  alphabar course record 6.2               a module's record, made from its lessons, as Markdown

The audit's exit status is 0 if nothing critical is found, 1 otherwise, and 2 where a record cannot be read.
"""
LESSONS = Path("course/lessons")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "course", help="audit the curriculum", description=__doc__, epilog=EPILOG, formatter_class=form
    )
    lessons = argparse.ArgumentParser(add_help=False)
    lessons.add_argument(
        "--lessons", type=Path, default=LESSONS, metavar="DIR", help=f"records and pages (default: {LESSONS})"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="audit | record")
    audit = actions.add_parser(
        "audit",
        parents=[lessons],
        help="hold records and pages against the rules",
        epilog="exit status: 0 if nothing critical is found, 1 otherwise, 2 where a record cannot be read",
    )
    audit.add_argument("--json", action="store_true", help="print JSON instead of a table")
    record = actions.add_parser("record", parents=[lessons], help="print a module's record as Markdown")
    record.add_argument("module", metavar="MODULE", help="such as 6.2")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `course audit` or `course record`; returns the exit status."""
    return {"audit": _audit, "record": _record}[args.action](args)


def _audit(args: argparse.Namespace) -> int:
    import json

    from alphabar.course.audit import audit, count, verdict
    from alphabar.course.record import load

    course = load(args.lessons)
    findings = audit(course)
    counts, said = count(findings), verdict(findings)
    if args.json:
        listed = [{**vars(finding), "file": str(finding.file)} for finding in findings]
        print(json.dumps({"verdict": said, "counts": counts, "findings": listed}, indent=2))
    else:
        written = sum(entry.lesson.written for entry in course.entries)
        print(table(findings), end="")
        print(f"{len(course.entries)} lessons recorded, {written} written")
        print(f"{', '.join(f'{number} {severity}' for severity, number in counts.items())}: {said}")
    return 1 if counts["critical"] else 0


def table(findings: list[Finding]) -> str:
    """Two lines a finding: severity, rule and place; what is wrong and what mends it."""
    wide = max((len(finding.rule) for finding in findings), default=0)
    return "".join(
        f"{f.severity:<11}  {f.rule:<{wide}}  {f.file}:{f.line}\n             {f.says}\n             fix: {f.fix}\n\n"
        for f in findings
    )


def _record(args: argparse.Namespace) -> int:
    from alphabar.course.record import load
    from alphabar.course.record_pages import module_record

    print(module_record(load(args.lessons), args.module), end="")
    return 0
