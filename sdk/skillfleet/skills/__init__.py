"""The declaration of skills: the decorator, handler signatures, and schemas."""
