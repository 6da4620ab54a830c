# Label Studio at the version that the tests run against, from the package index.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements-label-studio.txt .
RUN pip install -r requirements-label-studio.txt

RUN useradd --create-home label-studio && mkdir /data && chown label-studio /data
USER label-studio
WORKDIR /data
ENV LABEL_STUDIO_BASE_DATA_DIR=/data
VOLUME /data

EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=6s --start-period=180s \
    CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=5)"
CMD ["label-studio", "start", "--no-browser", "--internal-host", "0.0.0.0", "--port", "8080", "--enable-legacy-api-token"]
