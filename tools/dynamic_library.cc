#include "tools/dynamic_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include "runtime/options.h"

namespace kiln::tools {
namespace {

namespace fs = std::filesystem;

// Entries of a directory whose name starts with `prefix`, newest version first.
std::vector<std::string> entries(const std::string& directory, std::string_view prefix) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (entry.path().filename().string().starts_with(prefix)) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end(), std::greater<>());
  return found;
}

std::vector<std::string> toolkit_directories() {
  std::vector<std::string> homes;
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    const char* home = std::getenv(variable);
    if (home == nullptr || *home == '\0') continue;
    homes.emplace_back(home);
  }
  homes.emplace_back("/usr/local/cuda");
  for (const std::string& toolkit : entries("/usr/local", "cuda-")) homes.push_back(toolkit);
  std::vector<std::string> directories;
  for (const std::string& home : homes) {
    for (const char* lib : {"/lib64", "/lib", "/extras/CUPTI/lib64"})
      directories.push_back(home + lib);
  }
  return directories;
}

}  // namespace

std::vector<std::string> toolkit_candidates(std::span<const std::string_view> sonames,
                                            std::span<const std::string_view> wheel_packages) {
  std::vector<std::string> candidates;
  const auto add_directory = [&](const std::string& directory) {
    for (const std::string_view soname : sonames)
      candidates.push_back(fmt::format("{}/{}", directory, soname));
  };
  for (const std::string& directory : toolkit_directories()) add_directory(directory);
  candidates.insert(candidates.end(), sonames.begin(), sonames.end());
  for (const std::string& venv :
       runtime::nvrtc_search(nullptr, runtime::Environment::read()).venv_dirs) {
    for (const std::string& python : entries(venv + "/lib", "python3")) {
      for (const std::string_view package : wheel_packages)
        add_directory(fmt::format("{}/site-packages/nvidia/{}/lib", python, package));
    }
  }
  return candidates;
}

DynamicLibrary::DynamicLibrary(std::span<const std::string> candidates) {
  std::string tried;
  for (const std::string& candidate : candidates) {
    std::error_code error;
    const bool is_path = candidate.find('/') != std::string::npos;
    if (is_path && !fs::exists(candidate, error)) continue;
    handle_ = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) {
      path_ = candidate;
      message_ = candidate;
      return;
    }
    const char* reason = dlerror();
    tried += fmt::format("{}{}", tried.empty() ? "" : "; ",
                         reason != nullptr ? reason : candidate.c_str());
  }
  message_ = fmt::format("not found ({})", tried.empty() ? "no candidate exists" : tried);
}

void* DynamicLibrary::symbol(const char* name) const { return dlsym(handle_, name); }

}  // namespace kiln::tools
