// The subcommand of `kiln tune` that puts tables together.
#pragma once

#include "tools/commands.h"

namespace kiln::tools {

// The words behind "kiln tune merge"; returns the exit code, throws Error.
int tune_merge(Words words);

}  // namespace kiln::tools
