"""Reads the parts of README.md that the tests hold it to.

A code block is tested when the line above it is one of
  <!-- test: run -->           its commands run, in an empty directory, and exit with 0
  <!-- test: run exit=4 -->    ... the last one exits with 4
  <!-- test: run gpu -->       ... skipped where the command says that there is no usable GPU
  <!-- test: help -->          an excerpt of `kiln --help`; a line "..." stands for lines left out
  <!-- test: file NAME -->     a file of the embedding example
"""

import dataclasses
import re


@dataclasses.dataclass
class Block:
    kind: str
    arguments: list
    text: str
    line: int  # of the marker, from 1

    @property
    def title(self):
        """The first command, in the characters that a test's name may have."""
        commands = [line for line in self.text.splitlines() if line and not line.startswith("#")]
        return re.sub(r"[^A-Za-z0-9_./= -]", "", commands[0]).strip() if commands else "empty"


MARKER = re.compile(r"^<!-- test: (\w+)((?: [^ ]+)*) -->$")


def blocks(text):
    lines = text.splitlines()
    found = []
    for index, line in enumerate(lines):
        match = MARKER.match(line)
        if not match:
            if "<!-- test" in line:
                raise ValueError(f"README.md:{index + 1}: a test marker that cannot be read: {line}")
            continue
        if index + 1 >= len(lines) or not lines[index + 1].startswith("```"):
            raise ValueError(f"README.md:{index + 1}: no code block follows the test marker")
        end = lines.index("```", index + 2)
        body = "\n".join(lines[index + 2:end]) + "\n"
        found.append(Block(match[1], match[2].split(), body, index + 1))
    return found


def table_below(text, heading):
    """The rows, as lists of cells, of the first table below a heading."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if re.fullmatch(r"#+ " + re.escape(heading), line))
    first = next(i for i in range(start, len(lines)) if lines[i].startswith("|"))
    rows = []
    for line in lines[first + 2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip().strip("|").split("|")])
    return rows


def excerpt_problem(excerpt, full):
    """None if the excerpt's lines stand in `full`, next to each other except where it says "..."."""
    have = [line.rstrip() for line in full.splitlines()]
    position, adjacent = 0, False
    for line in (line.rstrip() for line in excerpt.splitlines()):
        if line == "...":
            adjacent = False
            continue
        if adjacent:
            if position >= len(have) or have[position] != line:
                got = have[position] if position < len(have) else "the end"
                return f"expected {line!r}, but there is {got!r}"
        elif line in have[position:]:
            position = have.index(line, position)
        else:
            return f"{line!r} is not there (any more)"
        position, adjacent = position + 1, True
    return None


def relative_links(text):
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose)
    return [target for target in targets if "://" not in target]
