"""`alphabar course`: the pages, the notebooks, the curriculum record and its audit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphabar.course.audit import Finding

EPILOG = """\
examples:
  alphabar course serve                    build the pages where that is needed, and open them in the browser
  alphabar course build --out site         the pages alone, for any web server
  alphabar course notebooks --out books    each notebook, to solve and solved; --check proves that they work
  alphabar course audit                    every rule on every lesson; what is wrong, where, and what mends it
  alphabar course audit --json
  alphabar course record 6.2               a module's record, made from its lessons, as Markdown

The audit's exit status is 0 if nothing critical is found, 1 otherwise, and 2 where a record cannot be read.
"""
COURSE = Path("course")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "course", help="build, serve and audit the course", description=__doc__, epilog=EPILOG, formatter_class=form
    )
    course = argparse.ArgumentParser(add_help=False)
    course.add_argument(
        "--course", type=Path, default=COURSE, metavar="DIR", help=f"the course's folder (default: {COURSE})"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="build | serve | notebooks | audit | record")
    _add_site(actions, course)
    audit = actions.add_parser(
        "audit",
        parents=[course],
        help="hold records and pages against the rules",
        epilog="exit status: 0 if nothing critical is found, 1 otherwise, 2 where a record cannot be read",
    )
    audit.add_argument("--json", action="store_true", help="print JSON instead of a table")
    record = actions.add_parser("record", parents=[course], help="print a module's record as Markdown")
    record.add_argument("module", metavar="MODULE", help="such as 6.2")
    parser.set_defaults(run=run)


def _add_site(actions: argparse._SubParsersAction[argparse.ArgumentParser], course: argparse.ArgumentParser) -> None:
    """The actions that make something: pages and notebooks."""
    site = argparse.ArgumentParser(add_help=False, parents=[course])
    site.add_argument("--out", type=Path, metavar="DIR", help="default: _build/html in the course's folder")
    actions.add_parser("build", parents=[site], help="build the pages; a warning is an error")
    serve = actions.add_parser("serve", parents=[site], help="build the pages if needed, and serve them on 127.0.0.1")
    serve.add_argument("--port", type=int, default=8000, help="another is taken where it is in use (default: 8000)")
    serve.add_argument("--no-open", action="store_true", help="leave the browser alone")
    books = actions.add_parser("notebooks", parents=[course], help="build the notebooks, to solve and solved")
    books.add_argument("--out", type=Path, metavar="DIR", help="default: _build/notebooks in the course's folder")
    books.add_argument("--check", action="store_true", help="run the solutions, and prove that each check can fail")


def run(args: argparse.Namespace) -> int:
    """Run an action of `course`; returns the exit status."""
    actions = {"build": _build, "serve": _serve, "notebooks": _notebooks, "audit": _audit, "record": _record}
    return actions[args.action](args)


def _build(args: argparse.Namespace) -> int:
    from alphabar.course.site import build

    out = _out(args, "html")
    build(args.course, out)
    print(f"{out / 'index.html'}")
    return 0


def _serve(args: argparse.Namespace) -> int:
    from alphabar.course.serve import serve

    serve(args.course, _out(args, "html"), args.port, browser=not args.no_open)
    return 0


def _notebooks(args: argparse.Namespace) -> int:
    from alphabar.course.notebooks import build_all, check, sources

    folder = args.course / "notebooks"
    for file in build_all(folder, _out(args, "notebooks")):
        print(file)
    for source in sources(folder) if args.check else ():
        check(source)
        print(f"{source}: the solution runs, every check can fail, and nothing leaks")
    return 0


def _out(args: argparse.Namespace, name: str) -> Path:
    return Path(args.out or args.course / "_build" / name)


def _audit(args: argparse.Namespace) -> int:
    import json

    from alphabar.course.audit import audit, count, verdict
    from alphabar.course.record import load

    course = load(args.course / "lessons")
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
    """Three lines a finding: severity, rule and place; what is wrong; what mends it."""
    wide = max((len(finding.rule) for finding in findings), default=0)
    return "".join(
        f"{f.severity:<11}  {f.rule:<{wide}}  {f.file}:{f.line}\n             {f.says}\n             fix: {f.fix}\n\n"
        for f in findings
    )


def _record(args: argparse.Namespace) -> int:
    from alphabar.course.record import load
    from alphabar.course.record_pages import module_record

    print(module_record(load(args.course / "lessons"), args.module), end="")
    return 0
