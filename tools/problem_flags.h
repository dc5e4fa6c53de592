// The flags that describe one problem, the same for `kiln run` and `kiln explain`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jit/problem.h"
#include "jit/source.h"
#include "jit/tile.h"
#include "tools/args.h"

namespace kiln::tools {

struct ProblemFlags {
  jit::Problem problem;
  std::int64_t m = 0;  // --m; grouped_contiguous and grouped_masked: mean rows of a group
  std::optional<jit::Tile> tile;  // --tile
};

std::vector<Flag> problem_flags();

// Throws Error{kInvalidArgument} for what is missing, malformed or cannot be computed.
ProblemFlags read_problem_flags(const Args& args);

// Throws when `flag` is given and the layout is not one that takes it; `layouts` names those.
void require_layout(const Args& args, std::string_view flag, bool accepted,
                    std::string_view layouts, jit::Layout layout);

// --tile alone, checked for form only.
std::optional<jit::Tile> read_tile(const Args& args);

// --arch and --sms of the subcommands that plan for a machine they do not run on.
struct Target {
  jit::Arch arch;
  std::int32_t num_sms = 0;
};
std::vector<Flag> target_flags();
Target read_target(const Args& args);

}  // namespace kiln::tools
