// kiln tune merge: the tables of several tuning runs, put together.
#include "tools/tune_merge.h"

#include <fmt/format.h>

#include <optional>
#include <utility>
#include <vector>

#include "jit/error.h"
#include "tools/args.h"
#include "tools/output_file.h"
#include "tools/strict_json.h"
#include "tools/tune_output.h"

namespace kiln::tools {
namespace {

const Command kMerge{"tune merge",
                     "put the tables of several tuning runs together",
                     "FILE FILE... --out FILE [--json]",
                     R"(
Where two files have the same problem, the one with more intervals measured stays, else the later,
else the faster; each such case is reported. Files of different GPUs, drivers or versions are
refused.

JSON keys: entries, conflicts: [text].

Exit codes: 0 merged; 1 the table cannot be written; 2 usage or a bad file.)",
                     {{"--out", "FILE", "the table to write"}, {"--json", "", "print JSON"}}};

}  // namespace

int tune_merge(Words words) {
  std::size_t files = 0;
  while (files < words.size() && !words[files].starts_with("-")) ++files;
  const Args args(kMerge, words.subspan(files));
  if (args.wants_help()) {
    print(help_text(kMerge));
    return kExitOk;
  }
  if (files == 0) throw Error(Status::kInvalidArgument, "a FILE to merge is missing");
  const std::string out = args.required_text("--out");
  std::optional<runtime::TunedFile> table;
  std::vector<std::string> conflicts;
  for (const std::string& name : words.first(files)) {
    runtime::TunedFile part = parse_tuned_file(read_file(name), name);
    if (!table) {
      table = std::move(part);
    } else {
      merge(*table, part, name, conflicts);
    }
  }
  OutputFile(out, "--out").write(runtime::to_text(*table));
  for (const std::string& conflict : conflicts)
    print_error(fmt::format("kiln tune merge: {}\n", conflict));
  if (args.has("--json")) {
    nlohmann::ordered_json document = {{"entries", table->entries.size()}};
    document["conflicts"] = conflicts;
    print_json(document);
  } else {
    print(fmt::format("{} problems from {} files in {}\n", table->entries.size(), files, out));
  }
  return kExitOk;
}

}  // namespace kiln::tools
