// kiln version
#include <fmt/format.h>

#include "tools/args.h"
#include "tools/commands.h"

namespace kiln::tools {
namespace {

const Command kCommand{
    "version",
    "print the version",
    "[--json]",
    "JSON keys: version, major, minor, patch, build.",
    {{"--json", "", "print JSON"}},
};

}  // namespace

int version(Words words) {
  const Args args(kCommand, words);
  if (args.wants_help()) {
    print(help_text(kCommand));
    return kExitOk;
  }
  std::int32_t major = 0, minor = 0, patch = 0;
  kiln_version(&major, &minor, &patch);
  const std::string text = fmt::format("{}.{}.{}", major, minor, patch);
  if (args.has("--json")) {
    print_json({{"version", text},
                {"major", major},
                {"minor", minor},
                {"patch", patch},
                {"build", kiln_build_info()}});
  } else {
    print(fmt::format("{}\n", kiln_build_info()));
  }
  return kExitOk;
}

}  // namespace kiln::tools
