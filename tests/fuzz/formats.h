// The binary formats of the cache for parsers.h: what accepts them, good ones, and how to make
// their sizes and checksums right again after damage.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kiln::test {

bool accepts_entry(std::string_view bytes);
std::vector<std::string> entry_seeds();
std::string reseal_entry(std::string bytes);

bool accepts_bundle(std::string_view bytes);
std::vector<std::string> bundle_seeds();
std::string reseal_bundle(std::string bytes);

}  // namespace kiln::test
