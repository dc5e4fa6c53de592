#include "tools/cache_directory.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <variant>

#include "jit/error.h"
#include "runtime/options.h"
#include "tools/commands.h"
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

void require_directory(const std::string& path, std::string_view flag) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    throw Error(Status::kInvalidArgument,
                fmt::format("the cache directory {} cannot be read: {}: check {}", quote(path),
                            std::strerror(errno), flag));
  }
  if (!S_ISDIR(status.st_mode)) {
    throw Error(Status::kInvalidArgument,
                fmt::format("{} is not a directory: check {}", quote(path), flag));
  }
}

std::string existing_directory(const Args& args) {
  const std::string directory = cache_directory(args);
  if (directory.empty())
    throw Error(Status::kInvalidArgument, "there is no cache directory: give --cache DIR");
  require_directory(directory, "--cache");
  return directory;
}

cache::Options directory_options(const std::string& directory, bool read_only) {
  cache::Options options;
  options.directory = directory;
  options.read_only = read_only;
  options.warn = [](const std::string& message) {
    print_error(fmt::format("kiln cache: {}\n", message));
  };
  return options;
}

std::vector<cache::ListedEntry> read_entries(const std::string& directory) {
  const cache::DiskCache cache(directory_options(directory, true));
  if (cache.state() != cache::DirectoryState::kReadOnly &&
      cache.state() != cache::DirectoryState::kUsable) {
    throw Error(Status::kInternal, fmt::format("the cache directory {} is {}: {}", quote(directory),
                                               cache::name(cache.state()), cache.state_message()));
  }
  return cache.list();
}

std::string_view state_of(const cache::ListedEntry& entry) {
  if (entry.untrusted) return "untrusted";
  if (const auto* defect = std::get_if<cache::Defect>(&entry.content)) return cache::name(*defect);
  return "good";
}

std::string compiler_of(const cache::Entry& entry) {
  return fmt::format("NVRTC {}.{}", entry.compiler_version >> 16, entry.compiler_version & 0xffff);
}

}  // namespace kiln::tools
