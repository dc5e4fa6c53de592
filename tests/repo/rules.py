"""The rules that the repository's files obey. Each function returns a list of problems."""

import pathlib
import re
import shutil
import subprocess

# tools -> runtime -> {jit, cache} -> templates: a folder may include itself and what is right of it.
# jit and cache never see each other, and cache knows no kernel, so not the templates either.
ALLOWED_FOLDERS = {
    "templates": {"templates"},
    "cache": {"cache"},
    "jit": {"jit", "templates"},
    "runtime": {"runtime", "jit", "cache", "templates"},
    "tools": {"tools", "runtime", "jit", "cache", "templates"},
}
SOURCE_SUFFIXES = {".h", ".cc", ".c", ".cuh", ".cu", ".hpp", ".cpp", ".inl"}
CUDA_HEADER = re.compile(r"^(cuda.*|nvrtc|nvJitLink|nvml|vector_types|driver_types|crt/.*)\.h(pp)?$")
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"(?P<quoted>[^"]+)"|<(?P<angled>[^>]+)>|(?P<other>\S+))')

TOP_LEVEL = {
    "CMakeLists.txt", "CMakePresets.json", "LICENSE", "README.md",
    "cache", "configs", "jit", "runtime", "templates", "tests", "tools",
}

WARN_LINES = 500
MAX_LINES = 1000
TEXT_SUFFIXES = SOURCE_SUFFIXES | {".py", ".sh", ".cmake"}


def tracked_files(root):
    """Paths relative to root: what git has, or in a source archive everything that is there."""
    if (root / ".git").exists() and shutil.which("git"):
        listing = subprocess.run(
            ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True, check=False)
        if listing.returncode == 0:
            names = [name for name in listing.stdout.decode().split("\0") if name]
            return sorted(name for name in names if (root / name).is_file())
    generated = re.compile(r"^(build[^/]*|out|\.git|\.venv[^/]*)/|__pycache__")
    names = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return sorted(name for name in names if not generated.search(name))


def _project_folder_of(root, source, text, quoted):
    """The top folder that an include lands in, or None for a header from outside the project."""
    candidates = [source.parent / text] if quoted else []
    candidates.append(root / text)
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve().relative_to(root.resolve()).parts[0]
    return None


def _include_problem(root, source, folder, match):
    text = match["quoted"] or match["angled"]
    if text is None:
        return f"#include {match['other']}: name the file, so that this check can read it"
    if CUDA_HEADER.match(text):
        if text == "cuda.h" and folder == "runtime":
            return None
        return f"{text}: only runtime includes <cuda.h>, and nothing includes another CUDA header"
    target = _project_folder_of(root, source, text, match["quoted"] is not None)
    if target is None:
        if match["quoted"] and text != "kiln.h":
            return f'"{text}" is neither next to the file nor below the repository\'s root'
        if folder == "templates" and (text.endswith(".h") or "/" in text):
            return f"<{text}>: templates include only their own files"
        return None
    if target not in ALLOWED_FOLDERS[folder]:
        return f"{folder} must not include {target} ({text})"
    return None


def include_problems(root):
    problems = []
    for name in tracked_files(root):
        source = root / name
        folder = pathlib.PurePath(name).parts[0]
        if folder not in ALLOWED_FOLDERS or source.suffix not in SOURCE_SUFFIXES:
            continue
        lines = source.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            match = INCLUDE.match(line)
            problem = match and _include_problem(root, source, folder, match)
            if problem:
                problems.append(f"{name}:{number}: {problem}")
    return problems


def link_problems(root):
    """The same arrows between the CMake targets kiln_<folder>."""
    problems = []
    for folder, allowed in ALLOWED_FOLDERS.items():
        path = root / folder / "CMakeLists.txt"
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for target in re.findall(r"\bkiln_(templates|cache|jit|runtime|tools)\b", line.split("#")[0]):
                if target not in allowed:
                    problems.append(f"{folder}/CMakeLists.txt:{number}: {folder} must not use kiln_{target}")
    return problems


def top_level_problems(root):
    names = {pathlib.PurePath(name).parts[0] for name in tracked_files(root)}
    extra = sorted(name for name in names - TOP_LEVEL if not name.startswith("."))
    missing = sorted(TOP_LEVEL - names)
    return ([f"{name}: not a name of the top level; move it into a folder" for name in extra] +
            [f"{name}: missing from the top level" for name in missing])


def length_problems(root, warn=WARN_LINES, maximum=MAX_LINES):
    """(warnings, problems): a file past `warn` lines is worth splitting, past `maximum` it must be."""
    warnings, problems = [], []
    for name in tracked_files(root):
        if pathlib.PurePath(name).suffix not in TEXT_SUFFIXES:
            continue
        count = len((root / name).read_text(encoding="utf-8").splitlines())
        if count > maximum:
            problems.append(f"{name}: {count} lines, at most {maximum}; split it")
        elif count > warn:
            warnings.append(f"{name}: {count} lines, more than {warn}; consider splitting it")
    return warnings, problems


def owner_problems(root):
    """Unfinished business that nobody would find again."""
    marker = re.compile(r"\b(TODO|FIXME|XXX)\b")
    problems = []
    for name in tracked_files(root):
        path = pathlib.PurePath(name)
        if path.suffix not in TEXT_SUFFIXES | {".md"} or path.parts[:2] == ("tests", "repo"):
            continue
        for number, line in enumerate((root / name).read_text(encoding="utf-8").splitlines(), start=1):
            if marker.search(line):
                problems.append(f"{name}:{number}: {line.strip()}")
    return problems
