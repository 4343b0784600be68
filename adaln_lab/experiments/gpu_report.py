"""What `make gpu` measured, in words; "not measured" where nobody has stored a result yet."""

from typing import Any

from adaln_lab.utils.assets import stored

NOTHING = (
    "Not measured on a GPU yet. Where one is, `make gpu` measures; its gpu.json, as adaln_lab/assets/bench_gpu.json, "
    "is then shown here."
)


def gpu_report(found: dict[str, Any] | None = None) -> str:
    """Lines of text: the card, milliseconds of a training step, seconds to quality. `found` stands in for the asset."""
    found = found or stored("bench_gpu")
    if found is None:
        return NOTHING
    about, parts = found["about"], found["parts"]
    lines = [f"{about['machine']}, torch {about['torch']}, {about['date']}"]
    for size, rows in parts.get("training step", {}).items():
        for name, row in rows.items():
            if isinstance(row, dict) and "ms" in row:
                speed = f", {row['speed']:.2f} times the textbook's speed" if "speed" in row else ""
                lines.append(f"a step, {size}, {name}: {row['ms']:.3g} ms{speed}")
    for name, row in parts.get("time to quality", {}).items():
        if isinstance(row, dict):
            told = "not reached" if row["reached"] is None else f"reached in {row['reached']:.1f} s"
            lines.append(f"{name}: {row['bar']:.0%} {told}; at the end {row['curve'][-1]['accuracy']:.1%}")
    failed = [name for name, result in parts.get("checks", {}).items() if result != "ok"]
    lines.append(f"checks that failed: {', '.join(failed)}" if failed else "all checks held")
    return "\n".join(lines)
