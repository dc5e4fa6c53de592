#include "tools/cache_directory.h"

#include <fmt/format.h>

#include "jit/error.h"
#include "runtime/options.h"
#include "tools/text.h"

namespace kiln::tools {

std::string cache_directory(const Args& args) {
  if (auto directory = args.text("--cache")) return *directory;
  return runtime::Environment::read().cache_dir.value_or(cache::default_directory());
}

void require_usable_cache(const cache::DiskCache& cache, const std::string& directory) {
  if (cache.state() == cache::DirectoryState::kUsable) return;
  if (directory.empty()) {
    throw Error(Status::kInternal,
                "there is no cache directory to store kernels in: give --cache DIR");
  }
  throw Error(Status::kInternal, fmt::format("the cache directory {} is {}: {}", quote(directory),
                                             cache::name(cache.state()), cache.state_message()));
}

}  // namespace kiln::tools
