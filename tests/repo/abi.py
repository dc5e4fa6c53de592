"""Reads a kiln.h and compares two of them: a newer one may add, and nothing else.

The layouts come from the compiler: a small C program prints sizes, offsets and values as it sees them.
"""

import re
import subprocess

STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror"]


def without_comments(text):
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def structs(text):
    """{struct: [field, ...]} of the public structs."""
    found = {}
    for name, body in re.findall(r"typedef struct (kiln_\w+) \{(.*?)\} \1;", without_comments(text), re.DOTALL):
        declarators = [part for line in body.split(";") for part in line.split(",") if part.strip()]
        found[name] = [re.search(r"(\w+)\s*(?:\[[^\]]*\])*\s*$", part)[1] for part in declarators]
    return found


def enumerators(text):
    bodies = re.findall(r"\benum \{(.*?)\}", without_comments(text), re.DOTALL)
    return [name for body in bodies for name in re.findall(r"\b(KILN_\w+)\s*=", body)]


def prototypes(text):
    """{function: its declaration}"""
    declarations = re.findall(r"KILN_API (?!__)([^;{]*?\b(kiln_\w+)\([^;]*\));", without_comments(text))
    return {name: " ".join(declaration.split()) for declaration, name in declarations}


def layout_program(names):
    """A C program that prints, of the header that it is compiled with, what `names` has."""
    lines = ["#include <stdio.h>", "#include <kiln.h>", "int main(void) {"]
    for struct, fields in names["structs"].items():
        lines.append(f'  printf("sizeof {struct} %zu\\n", sizeof({struct}));')
        for field in fields:
            at = f"offsetof({struct}, {field}), sizeof((({struct}*)0)->{field})"
            lines.append(f'  printf("{struct}.{field} %zu %zu\\n", {at});')
    for name in names["enumerators"]:
        lines.append(f'  printf("{name} %lld\\n", (long long){name});')
    return "\n".join([*lines, "  return 0;", "}", ""])


def layout(compiler, include, names, scratch):
    """What the program prints: {"sizeof kiln_tile": (40,), "kiln_tile.stages": (24, 4), ...}"""
    source, program = scratch / "layout.c", scratch / "layout"
    source.write_text(layout_program(names), encoding="utf-8")
    build = subprocess.run([compiler, "-std=c11", f"-I{include}", str(source), "-o", str(program)],
                           capture_output=True, text=True, check=False)
    if build.returncode != 0:
        raise LookupError(build.stderr)
    printed = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    rows = [line.rsplit(" ", 2 if "." in line else 1) for line in printed.splitlines()]
    return {row[0]: tuple(map(int, row[1:])) for row in rows}


def prototype_problems(compiler, include, old_text, scratch):
    """The old declarations once more behind the new header: C refuses what differs."""
    source = scratch / "prototypes.c"
    again = "\n".join(f"{declaration};" for declaration in prototypes(old_text).values())
    source.write_text(f"#include <kiln.h>\n{again}\n", encoding="utf-8")
    done = subprocess.run([compiler, "-std=c11", f"-I{include}", "-fsyntax-only", str(source)], capture_output=True,
                          text=True, check=False)
    return [line for line in done.stderr.splitlines() if "error" in line]


def incompatibilities(compiler, old, new, scratch):
    """What a program compiled with the header in folder `old` would trip over with that in `new`."""
    old_text = (old / "kiln.h").read_text(encoding="utf-8")
    new_text = (new / "kiln.h").read_text(encoding="utf-8")
    names = {"structs": structs(old_text), "enumerators": enumerators(old_text)}
    gone = sorted({*prototypes(old_text)} - {*prototypes(new_text)})
    problems = [f"{name}: the function is gone" for name in gone]
    try:
        before, after = (layout(compiler, folder, names, scratch) for folder in (old, new))
    except LookupError as error:
        return [*problems, f"a name is gone: {error}"]
    for name, numbers in before.items():
        grown = name.startswith("sizeof ") and after[name] >= numbers
        if after[name] != numbers and not grown:
            problems.append(f"{name}: was {numbers}, is {after[name]}")
    return problems + prototype_problems(compiler, new, old_text, scratch)
