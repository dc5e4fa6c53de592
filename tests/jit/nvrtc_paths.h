// The NVRTC libraries that tests compile with: KILN_TEST_NVRTC (colon-separated paths, set by
// tools/check to the oldest and the newest supported), else the one that the usual search finds.
#pragma once

#include <cstdlib>
#include <string>
#include <vector>

#include "jit/compiler.h"

namespace kiln::test {

inline std::vector<std::string> nvrtc_paths() {
  std::vector<std::string> paths;
  if (const char* list = std::getenv("KILN_TEST_NVRTC"); list != nullptr) {
    std::string path;
    for (const char* c = list;; ++c) {
      if (*c != ':' && *c != '\0') {
        path += *c;
        continue;
      }
      if (!path.empty()) paths.push_back(path);
      path.clear();
      if (*c == '\0') break;
    }
  }
  if (paths.empty())
    if (const jit::NvrtcLocation found = jit::locate_nvrtc({}); !found.path.empty())
      paths.push_back(found.path);
  return paths;
}

}  // namespace kiln::test
