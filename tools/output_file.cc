#include "tools/output_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "jit/error.h"
#include "tools/text.h"

namespace kiln::tools {
namespace fs = std::filesystem;

OutputFile::OutputFile(std::string path, std::string_view flag) : path_(std::move(path)) {
  std::error_code ignored;
  const fs::file_status status = fs::status(path_, ignored);
  const bool in_place = fs::exists(status) && !fs::is_regular_file(status);
  if (!in_place) temporary_ = fmt::format("{}.{}.tmp", path_, ::getpid());
  errno = 0;
  if (!fs::is_directory(status) && !path_.empty() &&
      std::ofstream(in_place ? path_ : temporary_, std::ios::app))
    return;
  const int why = fs::is_directory(status) ? EISDIR : errno;
  throw Error(Status::kInvalidArgument,
              fmt::format("{} {} cannot be written ({}): give a file in a directory that exists "
                          "and that you may write",
                          flag, quote(path_), path_.empty() ? "empty" : std::strerror(why)));
}

OutputFile::~OutputFile() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove(temporary_, ignored);
}

void OutputFile::write(std::string_view text) {
  std::ofstream file(temporary_.empty() ? path_ : temporary_, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  std::error_code error;
  if (file && !temporary_.empty()) fs::rename(temporary_, path_, error);
  if (file && !error) {
    temporary_.clear();
    return;
  }
  throw Error(Status::kInternal,
              fmt::format("writing {} failed: {}", quote(path_),
                          error ? error.message() : std::string("is the disk full?")));
}

}  // namespace kiln::tools
