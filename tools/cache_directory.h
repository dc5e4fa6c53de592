// Which cache directory a subcommand works on, and whether it can.
#pragma once

#include <string>

#include "cache/disk_cache.h"
#include "tools/args.h"

namespace kiln::tools {

inline constexpr Flag kCacheFlag{
    "--cache", "DIR", "the cache directory (default: KILN_CACHE_DIR, else ~/.cache/kiln)"};

// --cache, else KILN_CACHE_DIR, else the default; "" when there is none.
std::string cache_directory(const Args& args);

// Throws Error (exit code 1) unless kernels can be stored there.
void require_usable_cache(const cache::DiskCache& cache, const std::string& directory);

}  // namespace kiln::tools
