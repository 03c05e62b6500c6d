"""What `build --check` says: every finding with the rule's page and the lines that it is about.

Source: the observed output of docker 28, `docker build --check`.
"""

from proa.cli.table import show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def show_findings(findings: "list[dict[str, Any]]") -> int:
    """Print them; returns the exit code, which is not 0 where there are any."""
    if not findings:
        show("Check complete, no warnings found.\n")
        return 0
    count = len(findings)
    show(f"Check complete, {count} warning{'s have' if count != 1 else ' has'} been found!\n")
    for found in findings:
        rule, url = found.get("rule", ""), found.get("url", "")
        head = f"WARNING: {rule}{f' - {url}' if url else ''}\n" if rule else "WARNING:\n"
        text = found.get("description") or found.get("warning", "")
        show(f"\n{head}{text}\n{found.get('excerpt', '')}")
    return 1
