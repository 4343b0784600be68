"""Pictures: real digits and downloads (`datasets`), drawn scenes (`scenes`), read back (`scene_reader`)."""
