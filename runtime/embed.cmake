# Writes a C++ file that holds FILE as builtin_tuned_text(): raw strings of at most 8,000 bytes, as
# compilers limit the length of one.
file(READ ${FILE} content)
set(text "#include \"runtime/tuned_table.h\"\n\nnamespace kiln::runtime {\nnamespace {\n")
string(APPEND text "constexpr std::string_view kText =\n")
string(LENGTH "${content}" length)
set(at 0)
while(at LESS length)
  string(SUBSTRING "${content}" ${at} 8000 part)
  string(APPEND text "    R\"kilntext(${part})kilntext\"\n")
  math(EXPR at "${at} + 8000")
endwhile()
string(APPEND text "    \"\";\n}  // namespace\n\nstd::string_view builtin_tuned_text() { return kText; }\n\n}  // namespace kiln::runtime\n")
file(WRITE ${OUTPUT} "${text}")
