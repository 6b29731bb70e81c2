"""The HTTP API. In its paths `{thing:noun}` is a name without a colon, so that it is not taken for `{thing}:verb`."""

from starlette.convertors import StringConvertor, register_url_convertor


class Noun(StringConvertor):
    regex = "[^/:]+"


register_url_convertor("noun", Noun())
