"""Seconds, summed up."""


def quantile(values, share):
    """The smallest value that so large a share of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def seconds(values):
    shown = {f"p{share}": round(quantile(values, share / 100), 3) for share in (50, 95, 99)}
    return shown | {"max": round(max(values), 3), "n": len(values)}
