// A file that a command writes once, at its end.
#pragma once

#include <string>
#include <string_view>

namespace kiln::tools {

// All of it or nothing: who reads `path` at any time sees the old file or the whole new one. What
// is no regular file, such as a pipe, is written as it is.
class OutputFile {
 public:
  // Throws Error{kInvalidArgument}, naming `flag`, when the path cannot be written: before the work
  // and not after it. Changes nothing at `path`.
  OutputFile(std::string path, std::string_view flag);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();  // removes what is left of a file that was not written

  // Throws Error{kInternal}.
  void write(std::string_view text);

 private:
  std::string path_;
  std::string temporary_;  // empty: written in place, or done
};

}  // namespace kiln::tools
