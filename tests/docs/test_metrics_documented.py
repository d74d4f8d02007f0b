from pathlib import Path

from streamspace_agent.health.metrics import TABLE, full_name

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_lists_every_metric_with_type_labels_and_meaning_and_no_other():
    section = README.read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{full_name(row)}` | {row.kind} | {', '.join(row.labels) or '-'} | {row.help} |" for row in TABLE
    ]
