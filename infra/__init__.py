"""The only code that turns `hardware/` and `clusters/` into other tools' formats, and drives those tools."""
