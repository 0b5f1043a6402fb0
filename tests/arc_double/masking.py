"""Arc's masking of string literals, with its holes: a backslash escapes a quote, placeholders are guessable."""


def mask(sql: str) -> tuple[str, list[str]]:
    """Replace what looks like a quoted text by `__STR_n__`.

    Returns:
        The masked SQL, and what each placeholder stands for.
    """
    out: list[str] = []
    literals: list[str] = []
    place = 0
    while place < len(sql):
        quote = sql[place]
        if quote not in "'\"":
            out.append(quote)
            place += 1
            continue
        end = place + 1
        while end < len(sql):
            if sql[end] == quote:
                if sql[end + 1 : end + 2] == quote:
                    end += 2
                    continue
                if sql[end - 1] != "\\":
                    break
            end += 1
        out.append(f"__STR_{len(literals)}__")
        literals.append(sql[place : end + 1])
        place = end + 1
    return "".join(out), literals


def unmask(masked: str, literals: list[str]) -> str:
    """Put the literals back one after the other, each over the first text that spells its placeholder."""
    for number, literal in enumerate(literals):
        masked = masked.replace(f"__STR_{number}__", literal, 1)
    return masked
