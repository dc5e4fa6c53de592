// The actions of `kiln cache` that have files of their own. Each gets the words behind its name and
// returns the exit code. Throws Error.
#pragma once

#include "tools/commands.h"

namespace kiln::tools {

int cache_stats(Words words);
int cache_export(Words words);
int cache_import(Words words);
int cache_merge(Words words);
int cache_diff(Words words);

}  // namespace kiln::tools
