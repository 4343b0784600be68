"""Pictures: real digits and downloads (`datasets`), rendered scenes (`scenes`) and their reader (`scene_reader`)."""
