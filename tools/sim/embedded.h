// The files of kernel_side/ as text, from the build.
#pragma once

#include <span>
#include <string_view>

namespace kiln::sim {

struct EmbeddedFile {
  std::string_view name, text;
};
std::span<const EmbeddedFile> kernel_side_files();

}  // namespace kiln::sim
