// Which cache directory a subcommand works on, and whether it can.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cache/disk_cache.h"
#include "tools/args.h"

namespace kiln::tools {

inline constexpr Flag kCacheFlag{
    "--cache", "DIR", "the cache directory (default: KILN_CACHE_DIR, else ~/.cache/kiln)"};

// --cache, else KILN_CACHE_DIR, else the default; "" when there is none.
std::string cache_directory(const Args& args);

// Throws Error (exit code 1) unless kernels can be stored there.
void require_usable_cache(const cache::DiskCache& cache, const std::string& directory);

// The same, which must be a directory that is there: making one in order to look at it would hide a
// typo. Throws Error (exit code 2).
std::string existing_directory(const Args& args);
void require_directory(const std::string& path, std::string_view flag);

// Warnings go to stderr.
cache::Options directory_options(const std::string& directory, bool read_only);

// Everything in it, after making sure that it may be read at all. Throws Error (exit code 1).
std::vector<cache::ListedEntry> read_entries(const std::string& directory);

std::string_view state_of(const cache::ListedEntry& entry);  // good, untrusted, or the defect
std::string compiler_of(const cache::Entry& entry);          // "NVRTC 13.0"

}  // namespace kiln::tools
