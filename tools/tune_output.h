// What a tuning run leaves: a table of tiles (runtime/tuned_table.h), and putting several of them
// together.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/tuned_table.h"
#include "tools/tune_search.h"

namespace kiln::tools {

// The intervals that have a tile; none of them where nothing could be measured.
runtime::TunedEntry to_entry(const ProblemResult& result);

// A file to merge. Stricter than what an engine takes: an entry that it would leave out is an
// Error{kInvalidArgument} here, which names file and place.
runtime::TunedFile parse_tuned_file(std::string_view text, const std::string& name);

// Adds the entries of `part`. Of two for the same problem the one with better evidence stays: more
// intervals measured, then the later date, then the smaller sum of times (then the one that is
// there). What was dropped is described in `conflicts`, one line each. Throws Error when GPU, SM
// count or software differ. The date becomes the later one.
void merge(runtime::TunedFile& into, const runtime::TunedFile& part, const std::string& part_name,
           std::vector<std::string>& conflicts);

}  // namespace kiln::tools
